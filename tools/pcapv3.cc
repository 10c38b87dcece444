// pcapv3, the launcher: runs a program with the library preloaded.
//
// It owns finding the library, putting it into LD_PRELOAD, and refusing with a reason where the
// dynamic loader would ignore that. It becomes the program (exec), so the exit status and the
// signals are the program's own. What the library then does, and its settings (PCAPV3_*), is left
// to the library; whether the program uses libpcap at all is left to the program.

#include <elf.h>
#include <endian.h>
#include <link.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#if !defined(PCAPV3_SONAME) || !defined(PCAPV3_LIBDIR) || !defined(PACKAGE_VERSION)
#error "define PCAPV3_SONAME, PCAPV3_LIBDIR and PACKAGE_VERSION as strings"
#endif

namespace fs = std::filesystem;

namespace pcapv3 {
namespace {

// As env(1) has them.
constexpr int kExitUsage = 2;
constexpr int kExitRefused = 125;
constexpr int kExitCannotRun = 126;
constexpr int kExitNotFound = 127;

constexpr std::string_view kHelp =
    "Usage: pcapv3 [options] PROGRAM [ARGS]\n"
    "Run PROGRAM with the pcap-linux-v3 library as its libpcap.\n"
    "\n"
    "  --print-library  print the path of the library and exit\n"
    "  --version        print the version and exit\n"
    "  --help           print this text and exit\n"
    "\n"
    "Exit status: PROGRAM's own; 2 wrong usage, 125 the library can't be preloaded,\n"
    "126 PROGRAM can't be run, 127 PROGRAM was not found.\n"
    "See pcapv3(1), and pcap-linux-v3(7) for the settings.\n";

// The name starts with 00 as the first folder wins, and the distribution's own files are named by
// architecture (aarch64-linux-gnu.conf).
constexpr std::string_view kInstalledRemedy =
    "What works instead: make the library the program's libpcap. After \"make install\", as root:\n"
    "  echo '" PCAPV3_LIBDIR
    "' > /etc/ld.so.conf.d/00-pcap-linux-v3.conf\n"
    "  ldconfig";

// Ends the launcher with a status and a text; main reports it.
class Failure : public std::runtime_error {
 public:
  Failure(int status, const std::string& text) : std::runtime_error(text), status_(status) {}
  int status() const { return status_; }

 private:
  int status_;
};

[[noreturn]] void refuse(const std::string& subject, const std::string& why,
                         const std::string& remedy) {
  throw Failure(kExitRefused, "can't preload the library into " + subject + ":\n" + why + remedy);
}

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    throw Failure(kExitRefused, std::string("can't write to stdout: ") + std::strerror(errno));
  }
}

// The library beside the launcher is that of a build tree; the other one is installed.
fs::path find_library() {
  std::error_code ignored;
  std::string looked;
  for (const fs::path& folder :
       {fs::read_symlink("/proc/self/exe", ignored).parent_path(), fs::path(PCAPV3_LIBDIR)}) {
    if (folder.empty()) continue;
    fs::path library = folder / PCAPV3_SONAME;
    if (fs::is_regular_file(library, ignored)) return library;
    looked += "\n  " + library.string();
  }
  throw Failure(kExitRefused, "there is no library. Looked for:" + looked);
}

// The first bytes of a file, as many as the kernel looks at to decide how to run it
// (BINPRM_BUF_SIZE), filled up with zeros as there. None: the file can't be read.
std::optional<std::string> read_head(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return std::nullopt;
  std::string head(256, '\0');
  in.read(head.data(), static_cast<std::streamsize>(head.size()));
  return head;
}

std::optional<ElfW(Ehdr)> parse_elf(const std::string& head) {
  if (!head.starts_with(ELFMAG)) return std::nullopt;
  ElfW(Ehdr) header;
  static_assert(sizeof header <= 256);
  std::memcpy(&header, head.data(), sizeof header);
  return header;
}

// For a header of this machine's own class only.
bool has_interpreter(const fs::path& file, const ElfW(Ehdr) & header) {
  std::ifstream in(file, std::ios::binary);
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    ElfW(Phdr) segment;
    in.seekg(static_cast<std::streamoff>(header.e_phoff + i * sizeof segment));
    if (!in.read(reinterpret_cast<char*>(&segment), sizeof segment)) return false;
    if (segment.p_type == PT_INTERP) return true;
  }
  return false;
}

bool is_executable(const fs::path& file) {
  std::error_code ignored;
  return fs::is_regular_file(file, ignored) && euidaccess(file.c_str(), X_OK) == 0;
}

// What execvp would run for this name; none if it would fail.
std::optional<fs::path> find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) {
    return is_executable(name) ? std::optional<fs::path>(name) : std::nullopt;
  }
  if (name.empty()) return std::nullopt;
  const char* path = std::getenv("PATH");
  std::istringstream folders(path ? path : "/bin:/usr/bin");  // glibc's own default
  for (std::string folder; std::getline(folders, folder, ':');) {
    const fs::path candidate = fs::path(folder.empty() ? "." : folder) / name;
    if (is_executable(candidate)) return candidate;
  }
  return std::nullopt;
}

// Whether the kernel would take capabilities for this user from the file: its effective flag, or
// anything that ends up permitted (bprm_caps_from_vfs_caps in security/commoncap.c).
bool grants_capabilities(const fs::path& file) {
  vfs_cap_data caps{};
  vfs_ns_cap_data stored{};  // revision 3: revision 2 and a user ID
  static_assert(sizeof stored >= sizeof caps);
  if (getxattr(file.c_str(), "security.capability", &stored, sizeof stored) < 0) return false;
  std::memcpy(&caps, &stored, sizeof caps);
  if (le32toh(caps.magic_etc) & VFS_CAP_FLAGS_EFFECTIVE) return true;

  __user_cap_header_struct request{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct own[VFS_CAP_U32]{};
  syscall(SYS_capget, &request, own);
  for (int i = 0; i < VFS_CAP_U32; ++i) {
    if (le32toh(caps.data[i].permitted)) return true;
    if (le32toh(caps.data[i].inheritable) & own[i].inheritable) return true;
  }
  return false;
}

// Why the kernel would start this file in secure-execution mode, where ld.so(8) ignores a preloaded
// path; empty if it would not. The rule is that of cap_bprm_creds_from_file (security/commoncap.c)
// and bprm_fill_uid (fs/exec.c): what counts is the effective IDs that result against the caller's
// real ones, and capabilities unless the caller's real user is root.
std::string secure_execution_reason(const fs::path& file) {
  struct stat status {};
  struct statvfs mount {};
  if (stat(file.c_str(), &status) != 0 || statvfs(file.c_str(), &mount) != 0) return {};
  const bool may_raise = (mount.f_flag & ST_NOSUID) == 0;
  const bool may_set_ids = may_raise && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1;
  const bool sets_user = may_set_ids && (status.st_mode & S_ISUID) != 0;
  // Without group execution the bit once meant mandatory locking, and sets no ID.
  constexpr mode_t kSetGroup = S_ISGID | S_IXGRP;
  const bool sets_group = may_set_ids && (status.st_mode & kSetGroup) == kSetGroup;

  if (sets_user && status.st_uid != getuid()) {
    return "it is set-user-ID to user " + std::to_string(status.st_uid);
  }
  if (sets_group && status.st_gid != getgid()) {
    return "it is set-group-ID to group " + std::to_string(status.st_gid);
  }
  if ((!sets_user && geteuid() != getuid()) || (!sets_group && getegid() != getgid())) {
    return "it would run with effective IDs other than the real ones";
  }
  if (may_raise && getuid() != 0 && grants_capabilities(file)) {
    return "it carries file capabilities, and you are not root (as root, with sudo pcapv3, it "
           "works)";
  }
  return {};
}

// The program that runs a file which is no ELF; none if it can't be told.
std::optional<fs::path> find_interpreter(const std::string& head) {
  std::string interpreter = "/bin/sh";  // what execvp takes when the kernel knows no way (ENOEXEC)
  if (!head.starts_with("#!")) return interpreter;
  std::istringstream words(head.substr(2, head.find_first_of(std::string_view("\n\0", 2)) - 2));
  if (!(words >> interpreter) || fs::path(interpreter).filename() != "env") return interpreter;
  // env only passes LD_PRELOAD on. NAME is its first word that is no option and no assignment.
  for (std::string word; words >> word;) {
    if (word[0] != '-' && word.find('=') == std::string::npos) return find_program(word);
  }
  return std::nullopt;
}

// Throws if the dynamic loader would not preload the library into this file. `subject` names the
// file in the message. `depth`: the kernel follows five interpreters of interpreters.
void require_preloadable(const fs::path& file, const std::string& subject,
                         const ElfW(Ehdr) & library, int depth = 0) {
  const std::optional<std::string> head = read_head(file);
  const std::optional<ElfW(Ehdr)> elf = head ? parse_elf(*head) : std::nullopt;
  if (head && !elf) {
    // Set-ID bits and capabilities of a script mean nothing, only those of its interpreter.
    const std::optional<fs::path> interpreter = find_interpreter(*head);
    if (interpreter && depth < 5) {
      const std::string what = interpreter->string() + ", the interpreter of " + subject;
      require_preloadable(*interpreter, what, library, depth + 1);
    }
    return;
  }

  if (const std::string reason = secure_execution_reason(file); !reason.empty()) {
    refuse(subject,
           reason +
               ".\nThe dynamic loader then ignores our LD_PRELOAD (see ld.so(8), "
               "secure-execution mode).\n",
           std::string(kInstalledRemedy));
  }
  if (!elf) return;  // may be run but not read: all that can be told was told
  if (std::memcmp(elf->e_ident + EI_CLASS, library.e_ident + EI_CLASS, 2) != 0 ||  // and EI_DATA
      elf->e_machine != library.e_machine) {
    const bool is_32_bit = elf->e_ident[EI_CLASS] == ELFCLASS32;
    refuse(subject,
           std::string("it is a ") + (is_32_bit ? "32" : "64") +
               "-bit program of another architecture than the library\n(ELF machine " +
               std::to_string(elf->e_machine) + ", the library's is " +
               std::to_string(library.e_machine) + ").\n",
           "What works instead: build pcap-linux-v3 for that architecture too, and make that\n"
           "library the program's libpcap (install it, put its folder into /etc/ld.so.conf.d,\n"
           "run ldconfig).");
  }
  if (!has_interpreter(file, *elf)) {
    refuse(subject,
           "it is statically linked: no dynamic loader runs that could preload anything, and its\n"
           "libpcap, if any, is part of the program itself.\n",
           "What works instead: relink it, with pcap-linux-v3's libpcap.a or dynamically.");
  }
}

// tshark and wireshark leave the capture to dumpcap, from their own folder.
void require_capture_child(const fs::path& program, const ElfW(Ehdr) & library) {
  const std::string name = program.filename();
  if (name != "tshark" && name != "wireshark") return;
  std::error_code ignored;
  std::optional<fs::path> dumpcap = fs::canonical(program, ignored).parent_path() / "dumpcap";
  if (!fs::exists(*dumpcap, ignored)) dumpcap = find_program("dumpcap");
  if (!dumpcap) return;
  require_preloadable(*dumpcap, dumpcap->string() + ", which " + name + " starts to capture",
                      library);
}

[[noreturn]] void run(char** arguments) {
  const fs::path library = find_library();
  if (library.string().find_first_of(" :") != std::string::npos) {
    throw Failure(kExitRefused,
                  "can't preload " + library.string() +
                      ":\nLD_PRELOAD ends a name at a space or a colon, and this path has one.\n"
                      "What helps: build or install in a folder whose path has neither.");
  }
  const std::optional<std::string> head = read_head(library);
  const std::optional<ElfW(Ehdr)> library_elf = head ? parse_elf(*head) : std::nullopt;
  if (!library_elf) throw Failure(kExitRefused, library.string() + " is no readable ELF file");

  const std::optional<fs::path> program = find_program(arguments[0]);
  if (program) {
    require_preloadable(*program, program->string(), *library_elf);
    require_capture_child(*program, *library_elf);
  }

  const char* others = std::getenv("LD_PRELOAD");
  const std::string preload =
      library.string() + (others && *others ? ":" : "") + (others ? others : "");
  if (setenv("LD_PRELOAD", preload.c_str(), 1) != 0) {
    throw Failure(kExitRefused, std::string("can't set LD_PRELOAD: ") + std::strerror(errno));
  }
  // The very file that was tested; or the name, for execvp to say what is wrong with it.
  execvp(program ? program->c_str() : arguments[0], arguments);
  const int error = errno;
  throw Failure(error == ENOENT ? kExitNotFound : kExitCannotRun,
                std::string("can't run '") + arguments[0] + "': " + std::strerror(error));
}

int launch(char** words) {
  for (; *words && (*words)[0] == '-' && (*words)[1] != '\0'; ++words) {
    const std::string option = *words;
    if (option == "--") {
      ++words;
      break;
    }
    if (option == "--help") {
      print(kHelp);
    } else if (option == "--version") {
      print("pcapv3 (pcap-linux-v3) " PACKAGE_VERSION "\n");
    } else if (option == "--print-library") {
      print(find_library().string() + "\n");
    } else {
      throw Failure(kExitUsage, "unknown option '" + option + "'; see pcapv3 --help");
    }
    return 0;
  }
  if (!*words) throw Failure(kExitUsage, "no PROGRAM given; see pcapv3 --help");
  run(words);
}

}  // namespace
}  // namespace pcapv3

int main(int argc, char** argv) {
  try {
    return pcapv3::launch(argv + (argc > 0 ? 1 : 0));
  } catch (const pcapv3::Failure& failure) {
    std::fprintf(stderr, "pcapv3: %s\n", failure.what());
    return failure.status();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pcapv3: %s\n", error.what());
    return pcapv3::kExitRefused;
  }
}
