// SPDX-License-Identifier: BSD-3-Clause
// pcapv3, the launcher: it runs a program with the library preloaded.
//
// It finds the library, puts it into LD_PRELOAD, and refuses with a reason where the dynamic loader
// would ignore that. It becomes the program (exec), so the exit status and the signals are the
// program's own. With --fanout it instead starts the program several times, in a fan-out group that
// no other launcher uses, and ends them together. What the library then does, and its other
// settings (PCAPV3_*), are left to the library; whether the program uses libpcap at all is left to
// the program.

#include <elf.h>
#include <endian.h>
#include <link.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
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

// The exit statuses from 125 on are those of env(1).
constexpr int kExitUsage = 2;
constexpr int kExitRefused = 125;
constexpr int kExitCannotRun = 126;
constexpr int kExitNotFound = 127;

constexpr std::string_view kHelp =
    "Usage: pcapv3 [options] PROGRAM [ARGS]\n"
    "Run PROGRAM with the pcap-linux-v3 library as its libpcap.\n"
    "\n"
    "  --fanout MODE    run it several times, each with a share of the packets: by\n"
    "                   hash (of flows), lb, cpu, rollover, random or qm\n"
    "  -n N             so many times; %d in ARGS becomes the number, from 1 to N,\n"
    "                   and %%d becomes %d\n"
    "  --print-library  print the path of the library and exit\n"
    "  --version        print the version and exit\n"
    "  --help           print this text and exit\n"
    "\n"
    "Exit status: PROGRAM's own, with --fanout that of the first that failed; 2 wrong\n"
    "usage, 125 the library can't be preloaded, 126 PROGRAM can't be run, 127 PROGRAM\n"
    "was not found.\n"
    "See pcapv3(1), and pcap-linux-v3(7) for the settings.\n";

// The name starts with 00 because the first folder wins, and the distribution's own files are named
// by architecture (aarch64-linux-gnu.conf).
constexpr std::string_view kInstalledRemedy =
    "What works instead: make the library the program's libpcap. After \"make install\", as root:\n"
    "  echo '" PCAPV3_LIBDIR
    "' > /etc/ld.so.conf.d/00-pcap-linux-v3.conf\n"
    "  ldconfig";

// Thrown to end the launcher with a status and a text, which main reports.
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

// Returns the launcher's own folder, or an empty path if it is unknown.
fs::path own_folder() {
  std::error_code ignored;
  fs::path self = fs::read_symlink("/proc/self/exe", ignored);
  if (self.empty()) {
    // Without /proc, this is the path that execve(2) was given, which the kernel passes on
    // (fs/binfmt_elf.c: create_elf_tables).
    const unsigned long path = getauxval(AT_EXECFN);
    // NOLINTNEXTLINE(performance-no-int-to-ptr): getauxval(3) returns addresses as numbers.
    if (path != 0) self = fs::canonical(reinterpret_cast<const char*>(path), ignored);
  }
  return self.parent_path();
}

// Returns the library beside the launcher, which is that of a build tree, or else the installed
// one.
fs::path find_library() {
  std::error_code ignored;
  std::string looked;
  for (const fs::path& folder : {own_folder(), fs::path(PCAPV3_LIBDIR)}) {
    if (folder.empty()) continue;
    fs::path library = folder / PCAPV3_SONAME;
    if (fs::is_regular_file(library, ignored)) return library;
    looked += "\n  " + library.string();
  }
  throw Failure(kExitRefused, "there is no library. Looked for:" + looked);
}

// Returns the first bytes of a file, as many as the kernel looks at to decide how to run it
// (BINPRM_BUF_SIZE), padded with zeros as in the kernel; none if the file can't be read.
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

// Requires a header of the host's own class.
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

// Returns what execvp would run for this name; none if it would fail.
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

// Returns whether the kernel would take capabilities for this user from the file: because of its
// effective flag, or of anything that ends up permitted (bprm_caps_from_vfs_caps in
// security/commoncap.c).
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

// Returns why the kernel would start this file in secure-execution mode, where ld.so(8) ignores a
// preloaded path, or an empty text if it would not. The rule is that of cap_bprm_creds_from_file
// (security/commoncap.c) and bprm_fill_uid (fs/exec.c): it compares the resulting effective IDs
// with the caller's real ones, and looks at capabilities unless the caller's real user is root.
std::string secure_execution_reason(const fs::path& file) {
  struct stat status {};
  struct statvfs mount {};
  if (stat(file.c_str(), &status) != 0 || statvfs(file.c_str(), &mount) != 0) return {};
  const bool may_raise = (mount.f_flag & ST_NOSUID) == 0;
  const bool may_set_ids = may_raise && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1;
  const bool sets_user = may_set_ids && (status.st_mode & S_ISUID) != 0;
  // Without group execution the bit once meant mandatory locking, and it sets no ID.
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

// Returns the program that runs a file which is no ELF; none if it is unknown.
std::optional<fs::path> find_interpreter(const std::string& head) {
  std::string interpreter = "/bin/sh";  // execvp runs this when the kernel can't (ENOEXEC)
  if (!head.starts_with("#!")) return interpreter;
  std::istringstream words(head.substr(2, head.find_first_of(std::string_view("\n\0", 2)) - 2));
  if (!(words >> interpreter) || fs::path(interpreter).filename() != "env") return interpreter;
  // env only passes LD_PRELOAD on. The program is its first word that is no option or assignment.
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
    // A script's set-ID bits and capabilities mean nothing; those of its interpreter count.
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
  if (!elf) return;  // it may be run but not read: nothing more can be checked
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

// Throws if the library can't be preloaded into dumpcap, to which tshark and wireshark leave the
// capture, and which they take from their own folder.
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

// Returns a library beside ours that is preloaded as well; none if it is not there. It is empty,
// but needs libraries by the names that are not our soname, such as libpcap.so, and finds them as
// links to ours. From then on the dynamic loader knows ours by these names (glibc's elf/dl-load.c:
// _dl_map_object_from_fd adds the name to what it has from the same file), so that a program that
// loads libpcap by one of them gets ours.
std::optional<fs::path> find_names(const fs::path& library) {
  const fs::path folder = library.parent_path() / "names";
  std::error_code ignored;
  if (!fs::equivalent(folder / "libpcap.so", library, ignored)) return std::nullopt;
  const fs::path names = folder / "pcapv3-names.so";
  return fs::is_regular_file(names, ignored) ? std::optional<fs::path>(names) : std::nullopt;
}

// Makes the dynamic loader preload the library into the program that these words run. Returns what
// to pass to execvp: the very file that was tested; or the name, so that execvp reports what is
// wrong with it.
std::string prepare(char** arguments) {
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

  std::string preload = library.string();
  if (const std::optional<fs::path> names = find_names(library)) preload += ":" + names->string();
  if (const char* others = std::getenv("LD_PRELOAD"); others && *others) {
    preload += std::string(":") + others;
  }
  if (setenv("LD_PRELOAD", preload.c_str(), 1) != 0) {
    throw Failure(kExitRefused, std::string("can't set LD_PRELOAD: ") + std::strerror(errno));
  }
  return program ? program->string() : arguments[0];
}

[[noreturn]] void run(const std::string& program, char** arguments) {
  execvp(program.c_str(), arguments);
  const int error = errno;
  throw Failure(error == ENOENT ? kExitNotFound : kExitCannotRun,
                std::string("can't run '") + arguments[0] + "': " + std::strerror(error));
}

// ---- Several programs

constexpr int kMostMembers = 256;

// The signals by which a user or a terminal ends a program. They are passed on to all programs.
constexpr int kPassedOn[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

// A group number that no other launcher in this network namespace has while this one runs. It is
// reserved by binding a socket to a name made of it, which leaves no file behind.
class GroupNumber {
 public:
  GroupNumber() {
    constexpr int kFirst = 32768;  // small ones are for people
    constexpr int kCount = 32768;
    socket_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    for (int i = 0; i < kCount; ++i) {
      number_ = kFirst + (getpid() + i) % kCount;
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      // The zero byte in front makes it an abstract name, not a path (unix(7)).
      const std::string name = "pcapv3-fanout-" + std::to_string(number_);
      std::copy(name.begin(), name.end(), address.sun_path + 1);
      const auto length = offsetof(sockaddr_un, sun_path) + 1 + name.size();
      if (bind(socket_, reinterpret_cast<const sockaddr*>(&address),
               static_cast<socklen_t>(length)) == 0) {
        return;
      }
      if (errno != EADDRINUSE) break;
    }
    throw Failure(kExitRefused,
                  std::string("can't choose a fan-out group: ") + std::strerror(errno));
  }
  ~GroupNumber() { close(socket_); }
  GroupNumber(const GroupNumber&) = delete;
  GroupNumber& operator=(const GroupNumber&) = delete;
  int value() const { return number_; }

 private:
  int socket_ = -1;
  int number_ = 0;
};

// Returns the word with the number in place of each %d. Other uses of % are the program's.
std::string numbered(std::string_view word, int number) {
  std::string result;
  for (std::size_t at = 0; at < word.size(); ++at) {
    if (word.substr(at).starts_with("%%d")) {
      result += "%d";
      at += 2;
    } else if (word.substr(at).starts_with("%d")) {
      result += std::to_string(number);
      at += 1;
    } else {
      result += word[at];
    }
  }
  return result;
}

// The running programs, from their start to their common end.
class Members {
 public:
  // Starts them. None of them gets a signal before all have been started.
  Members(const std::string& program, char** arguments, int count) {
    sigemptyset(&awaited_);
    // This includes signals that are ignored here, as by nohup(1) or by a shell's &: the programs
    // inherit that, and decide what they do about it.
    for (const int signal : kPassedOn) sigaddset(&awaited_, signal);
    sigaddset(&awaited_, SIGCHLD);
    signal(SIGCHLD, SIG_DFL);
    sigprocmask(SIG_BLOCK, &awaited_, &mask_);
    for (int number = 1; number <= count && status_ == 0; ++number) {
      start(program, arguments, number);
    }
  }

  // Waits until all have ended. Returns the status of the first that failed.
  int wait() {
    while (!running_.empty()) {
      siginfo_t info{};
      const int signal = sigwaitinfo(&awaited_, &info);
      if (signal == SIGCHLD) {
        collect();
      } else if (signal > 0) {
        pass_on(signal);
      }
    }
    return status_;
  }

 private:
  using Clock = std::chrono::steady_clock;

  void start(const std::string& program, char** arguments, int number) {
    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child < 0) {
      fail(kExitRefused, std::string("can't start another process: ") + std::strerror(errno));
    } else if (child > 0) {
      running_.push_back(child);
    } else {
      // The program leaves the launcher's process group, so that a signal that a terminal or
      // timeout(1) sends to the whole group comes to each program once, from the launcher.
      setpgid(0, 0);
      prctl(PR_SET_PDEATHSIG, SIGTERM);
      if (getppid() != parent) _exit(kExitRefused);
      sigprocmask(SIG_SETMASK, &mask_, nullptr);
      std::vector<std::string> words{arguments[0]};
      for (char** word = arguments + 1; *word; ++word) words.push_back(numbered(*word, number));
      std::vector<char*> pointers;
      pointers.reserve(words.size() + 1);
      for (std::string& word : words) pointers.push_back(word.data());
      pointers.push_back(nullptr);
      try {
        run(program, pointers.data());
      } catch (const Failure& failure) {
        std::fprintf(stderr, "pcapv3: %s\n", failure.what());
        _exit(failure.status());
      }
    }
  }

  // Must be called when one has failed: ends the others, unless they have been told to end already.
  void fail(int status, const std::string& text) {
    if (status_ != 0) return;
    status_ = status;
    if (!text.empty()) std::fprintf(stderr, "pcapv3: %s\n", text.c_str());
    if (last_signal_ != SIGINT && last_signal_ != SIGTERM) tell(SIGTERM);
  }

  void tell(int signal) const {
    for (const pid_t child : running_) kill(child, signal);
  }

  // Passes a signal on to all programs, but not twice within a second: timeout(1) sends it to the
  // launcher and then to its whole group, and a capture that gets it twice leaves out what it has
  // not read yet.
  void pass_on(int signal) {
    const Clock::time_point now = Clock::now();
    if (signal == last_signal_ && now - last_time_ < std::chrono::seconds(1)) return;
    last_signal_ = signal;
    last_time_ = now;
    tell(signal);
  }

  void collect() {
    int how = 0;
    for (pid_t child; (child = waitpid(-1, &how, WNOHANG)) > 0;) {
      if (std::erase(running_, child) == 0) continue;
      const int status = WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
      if (status != 0) fail(status, "");
    }
  }

  sigset_t awaited_{};
  sigset_t mask_{};
  std::vector<pid_t> running_;
  int status_ = 0;
  int last_signal_ = 0;
  Clock::time_point last_time_{};
};

int run_members(const std::string& program, char** arguments, const std::string& mode, int count) {
  if (!find_program(arguments[0])) run(program, arguments);  // reports once why it can't
  const GroupNumber group;
  const std::string setting = std::to_string(group.value()) + ":" + mode;
  if (setenv("PCAPV3_FANOUT", setting.c_str(), 1) != 0) {
    throw Failure(kExitRefused, std::string("can't set PCAPV3_FANOUT: ") + std::strerror(errno));
  }
  return Members(program, arguments, count).wait();
}

int parse_count(const std::string& text) {
  const bool is_number =
      !text.empty() && text.size() < 4 && text.find_first_not_of("0123456789") == text.npos;
  const int count = is_number ? std::stoi(text) : 0;
  if (count < 1 || count > kMostMembers) {
    throw Failure(kExitUsage, "-n '" + text + "': a number from 1 to " +
                                  std::to_string(kMostMembers) + " is wanted");
  }
  return count;
}

void require_mode(const std::string& mode) {
  for (const char* known : {"hash", "lb", "cpu", "rollover", "random", "qm"}) {
    if (mode == known) return;
  }
  throw Failure(kExitUsage,
                "--fanout '" + mode + "': hash, lb, cpu, rollover, random or qm is wanted");
}

// Returns the word after an option that needs one.
std::string value_of(char**& words) {
  const std::string option = *words;
  if (!*++words) throw Failure(kExitUsage, option + " wants a value; see pcapv3 --help");
  return *words;
}

int launch(char** words) {
  std::string mode;
  int count = 0;
  for (; *words && (*words)[0] == '-' && (*words)[1] != '\0'; ++words) {
    const std::string option = *words;
    if (option == "--") {
      ++words;
      break;
    }
    if (option == "--fanout") {
      require_mode(mode = value_of(words));
      continue;
    }
    if (option == "-n") {
      count = parse_count(value_of(words));
      continue;
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
  if (mode.empty() != (count == 0)) {
    throw Failure(kExitUsage, "--fanout and -n go together; see pcapv3 --help");
  }
  if (!*words) throw Failure(kExitUsage, "no PROGRAM given; see pcapv3 --help");
  const char* set = std::getenv("PCAPV3_FANOUT");
  if (!mode.empty() && set && *set) {
    throw Failure(kExitUsage, "--fanout chooses a group; PCAPV3_FANOUT must not be set");
  }
  const std::string program = prepare(words);
  if (mode.empty()) run(program, words);
  return run_members(program, words, mode, count);
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
