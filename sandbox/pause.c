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
#include <net/if.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
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

// apply makes one setting. The kernel's answer is the whole error: the node
// knows which setting it asked for.
static void apply(const char *key, const char *value) {
	if (strcmp(key, "hostname") == 0) {
		must(sethostname(value, strlen(value)) == 0);
	} else if (strcmp(key, "loopback") == 0) {
		loopback_up();
	} else {
		write_file(key, value);
	}
	answer(0);
}

static void hold(void) {
	// Every signal is blocked, so that a terminal's cannot end the sandbox;
	// two are taken. As pid 1 of a shared pid namespace the process must
	// reap; in its own it has no children.
	sigset_t taken;
	sigemptyset(&taken);
	sigaddset(&taken, SIGCHLD);
	sigaddset(&taken, SIGTERM);
	for (;;) {
		siginfo_t from;
		int sig = sigwaitinfo(&taken, &from);
		if (sig == SIGCHLD) {
			while (waitpid(-1, NULL, WNOHANG) > 0) {
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
