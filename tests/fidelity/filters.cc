// Scenarios: filters, set before traffic and under it.
#include "record.h"

namespace pcapv3::fidelity {

extern const std::span<const Scenario> kFiltersScenarios({});

}  // namespace pcapv3::fidelity
