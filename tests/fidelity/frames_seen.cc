// Scenarios: which frames come and how they look: tags, sizes, snapshot lengths, devices, counts.
#include "record.h"

namespace pcapv3::fidelity {

extern const std::span<const Scenario> kFramesSeenScenarios({});

}  // namespace pcapv3::fidelity
