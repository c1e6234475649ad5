// The pause process: the first process of a sandbox. It holds the sandbox's
// namespaces by living in them, and does not do anything else after it has
// set them up.
//
// It is this same binary, but a C constructor takes over before Go starts: a
// page or two of private memory and one thread instead of some megabytes and
// five. sandbox/pause.go has the other end and the protocol.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SOCK = 3, SETTINGS_MAX = 64 * 1024 };

// In .bss: pages that no setting reaches are never there.
static char settings[SETTINGS_MAX];

// answer tells the node how it went: the errno as four bytes, zero for ready.
static void answer(int32_t err) {
	ssize_t n;
	do {
		n = send(SOCK, &err, sizeof err, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n < 0 || err != 0) {
		_exit(1);
	}
}

static void must(int ok) {
	if (!ok) {
		answer(errno);
	}
}

// ask reads one message. The end of the stream means that the node is gone
// before it wrote down that this process exists: nobody would ever find it.
static size_t ask(void) {
	ssize_t n;
	do {
		n = recv(SOCK, settings, sizeof settings - 1, 0);
	} while (n < 0 && errno == EINTR);
	if (n <= 0) {
		_exit(1);
	}
	settings[n] = 0;
	return (size_t)n;
}

static void loopback_up(void) {
	struct ifreq r;
	memset(&r, 0, sizeof r);
	strcpy(r.ifr_name, "lo");
	r.ifr_flags = IFF_UP | IFF_RUNNING;
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	must(s >= 0);
	must(ioctl(s, SIOCSIFFLAGS, &r) == 0);
	close(s);
}

static void write_file(const char *path, const char *value) {
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	must(fd >= 0);
	size_t len = strlen(value);
	must(write(fd, value, len) == (ssize_t)len);
	close(fd);
}

static void hold(void);

// The first process of a pid namespace that containers share, 0 without one.
static pid_t first;

// leave_files gives the process a root of its own with nothing in it.
static void leave_files(void) {
	must(unshare(CLONE_NEWNS) == 0);
	must(mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
	// Over a directory that is there, for it becomes the root at once.
	must(mount("none", "/proc", "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,mode=555") == 0);
	must(chdir("/proc") == 0);
	// The old root comes to lie over the new one, see pivot_root(2).
	must(syscall(SYS_pivot_root, ".", ".") == 0);
	must(umount2(".", MNT_DETACH) == 0);
	must(chdir("/") == 0);
}

// leave_rights drops all that root may do, and keeps others from debugging the
// process, which would give them a process without a seccomp filter.
static void leave_rights(void) {
	for (unsigned long c = 0; prctl(PR_CAPBSET_DROP, c) == 0; c++) {
	}
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {{0}};
	must(syscall(SYS_capset, &header, none) == 0);
	must(prctl(PR_SET_DUMPABLE, 0) == 0);
}

// start_first makes the pid namespace that containers share, with a process to
// be its first. Containers see that one, and a debugger among them sees its
// files: so it is another than this process, which has the node's mounts to
// hold. One does not outlive the other.
static void start_first(void) {
	int parent = (int)syscall(SYS_pidfd_open, getpid(), 0); // 5.3
	must(parent >= 0);
	must(unshare(CLONE_NEWPID) == 0);
	first = fork();
	must(first >= 0);
	if (first != 0) {
		close(parent);
		return; // it answers itself
	}
	must(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
	// The parent may have died before that: its pid is not to be seen from here.
	struct pollfd dead = {.fd = parent, .events = POLLIN};
	if (poll(&dead, 1, 0) != 0) {
		_exit(1);
	}
	close(parent);
	setsid();
	leave_files();
	leave_rights();
	answer(0);
	close(SOCK);
	hold();
}

// apply makes one setting. The kernel's answer is the whole error: the node
// knows which setting it asked for.
static void apply(const char *key, const char *value) {
	if (strcmp(key, "hostname") == 0) {
		must(sethostname(value, strlen(value)) == 0);
	} else if (strcmp(key, "loopback") == 0) {
		loopback_up();
	} else if (strcmp(key, "processes") == 0) {
		start_first();
		return;
	} else {
		write_file(key, value);
	}
	answer(0);
}

static void hold(void) {
	// Every signal is blocked, so that a terminal's cannot end the sandbox;
	// two are taken. As pid 1 of a shared pid namespace the process must
	// reap; else it has that one for a child, or none.
	sigset_t taken;
	sigemptyset(&taken);
	sigaddset(&taken, SIGCHLD);
	sigaddset(&taken, SIGTERM);
	for (;;) {
		siginfo_t from;
		int sig = sigwaitinfo(&taken, &from);
		if (sig == SIGCHLD) {
			for (pid_t p; (p = waitpid(-1, NULL, WNOHANG)) > 0;) {
				if (p == first) {
					_exit(1);
				}
			}
		}
		// si_pid is 0 when the sender is outside the pid namespace: a
		// container of the pod may not end its sandbox.
		if (sig == SIGTERM && (getpid() != 1 || from.si_pid == 0)) {
			_exit(0);
		}
	}
}

__attribute__((constructor(101))) static void podrun_pause(int argc, char **argv) {
	if (argc < 1 || strcmp(argv[0], "podrun-pause") != 0) {
		return;
	}
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	// close_range is 5.9; the node has set close-on-exec on what it opened.
	syscall(SYS_close_range, 0, SOCK - 1, 0);
	syscall(SYS_close_range, SOCK + 1, ~0U, 0);
	prctl(PR_SET_NAME, "podrun-pause");
	setsid();
	if (chdir("/") != 0) {
		_exit(1);
	}
	// One message is one setting, KEY NUL VALUE; an empty one is the last.
	for (;;) {
		size_t n = ask();
		if (settings[0] == 0) {
			break;
		}
		size_t key = strlen(settings);
		apply(settings, key < n ? settings + key + 1 : "");
	}
	answer(0);
	close(SOCK);
	hold();
}
