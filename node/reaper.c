// The reaper: parent of the node and, as a child subreaper, heir of every
// process that the node leaves behind. It writes down how they ended, keeps
// descriptors that must outlive the node, and starts the node again when that
// dies. It knows nothing of pods.
//
// It is this same binary, but a C constructor takes over before Go starts: one
// thread, some ten pages of private memory, and no timer while the node runs.
// Being single-threaded it may also join and make user namespaces, which a Go
// process may not.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kept.h"
#include "reaper.h"

// EXITS_MAX bytes are some 10,000 lines. The log is renamed to exits.1 when it
// is longer, so that at least so many of the last deaths can be looked up. Only
// children of the node are in it, never what a container starts: those fall to
// their own first process. A node that comes back asks for the containers it
// knows, a few thousand at most.
enum { EXITS_MAX = 256 * 1024, DELAY_MAX_MS = 5000, DELAY_MIN_MS = 100, SHORT_LIFE_MS = 1000 };

static struct {
	int state;    // the state directory
	int exits;    // the log of wait statuses, or -1
	int signals;  // signalfd
	int launcher; // until the first node has been started, then -1
	int node_sock;
	pid_t node; // 0 while there is none
	int64_t node_started, start_at, delay; // milliseconds
	int ready, stopping, unlogged;
	struct rlimit files; // what we were started with, and the node gets
} r = {.exits = -1, .launcher = REAPER_LAUNCHER, .node_sock = -1};

static int64_t now_ms(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

// tell sends the launcher the result of one step of the start: its name, an
// errno and our pid. After a failure there is nothing left to do.
static void tell(const char *step, int err) {
	char b[64];
	int n = snprintf(b, sizeof b, "%s %d %d", step, err, getpid());
	if (send(REAPER_LAUNCHER, b, (size_t)n, MSG_NOSIGNAL) < 0 || err != 0) {
		_exit(1);
	}
}

// await waits until the launcher has mapped our ids and written down our pid.
static void await(void) {
	char b[8];
	if (recv(REAPER_LAUNCHER, b, sizeof b, 0) <= 0) {
		_exit(1); // the launcher went away: nobody would know of us
	}
}

static int namespaces(const char *mode) {
	if (strcmp(mode, REAPER_MODE_USER) == 0) {
		return unshare(CLONE_NEWUSER | CLONE_NEWNS);
	}
	if (strcmp(mode, REAPER_MODE_ROOT) == 0) {
		return unshare(CLONE_NEWNS);
	}
	if (fcntl(REAPER_USERNS, F_GETFD) >= 0 && setns(REAPER_USERNS, CLONE_NEWUSER) != 0) {
		return -1;
	}
	return setns(REAPER_MOUNTNS, CLONE_NEWNS);
}

// become_root makes us the root that our namespaces know, with a view of the
// mounts that follows the host's but that the host does not see.
static int become_root(const char *mode) {
	if (setresgid(0, 0, 0) != 0 || setresuid(0, 0, 0) != 0) {
		return -1;
	}
	if (strcmp(mode, REAPER_MODE_JOIN) == 0) {
		return 0;
	}
	return mount("", "/", NULL, MS_REC | MS_SLAVE, NULL);
}

// try_overlay mounts one in the directory that the launcher has made for it.
static void try_overlay(void) {
	char dir[1024], target[1100], data[4096];
	ssize_t n = recv(REAPER_LAUNCHER, dir, sizeof dir - 1, 0);
	if (n <= 0) {
		_exit(1);
	}
	dir[n] = 0;
	snprintf(target, sizeof target, "%s/merged", dir);
	snprintf(data, sizeof data, "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work,userxattr", dir, dir, dir);
	tell("overlay", mount("overlay", target, "overlay", 0, data) == 0 ? 0 : errno);
	_exit(0); // the mount goes with the namespace
}

// detach leaves everything of the command that started us but its descriptors
// 0 to 2, which are node.log.
static void detach(void) {
	pid_t p = fork();
	if (p != 0) {
		_exit(p < 0);
	}
	setsid();
	umask(022); // images are unpacked alike, whatever the caller's is
	// Not the user's keys: a container without a seccomp filter could read them.
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS) {
		dprintf(2, "reaper: no keyring of our own: %s\n", strerror(errno));
	}
	prctl(PR_SET_NAME, REAPER_NAME);
	// Nothing a terminal or a shell's kill sends ends us: all is blocked,
	// and two are taken by signalfd. What the caller ignored is undone, for
	// the node would inherit it.
	for (int s = 1; s < NSIG; s++) {
		signal(s, SIG_DFL);
	}
	sigset_t set;
	sigfillset(&set);
	sigprocmask(SIG_SETMASK, &set, NULL);
}

// open_exits opens the log. Without it processes stay zombies until it can be
// written: no status is lost.
static int open_exits(void) {
	if (r.exits < 0) {
		r.exits = openat(r.state, "exits", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	}
	return r.exits;
}

static void rotate_exits(void) {
	struct stat st;
	if (fstat(r.exits, &st) == 0 && st.st_size > EXITS_MAX &&
	    renameat(r.state, "exits", r.state, "exits.1") == 0) {
		close(r.exits);
		r.exits = -1;
	}
}

// start_time is field 22 of /proc/PID/stat. Field 2, the command, is in
// parentheses and may hold any byte. A zombie still has a start time.
static unsigned long long start_time(pid_t pid) {
	char path[32], b[1024];
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		return 0;
	}
	ssize_t n = read(fd, b, sizeof b - 1);
	close(fd);
	b[n > 0 ? n : 0] = 0;
	char *p = strrchr(b, ')');
	for (int field = 2; p != NULL && field < 22; field++) {
		p = strchr(p + 1, ' ');
	}
	return p == NULL ? 0 : strtoull(p + 1, NULL, 10);
}

// wait_status is what wait(2) would have said.
static int wait_status(const siginfo_t *i) {
	switch (i->si_code) {
	case CLD_EXITED:
		return (i->si_status & 0xff) << 8;
	case CLD_DUMPED:
		return i->si_status | 0x80;
	default:
		return i->si_status;
	}
}

static int log_exit(const siginfo_t *i) {
	if (open_exits() < 0) {
		return -1;
	}
	char b[64];
	int n = snprintf(b, sizeof b, "%d %llu %d\n", i->si_pid, start_time(i->si_pid), wait_status(i));
	struct stat before;
	if (fstat(r.exits, &before) != 0) {
		return -1;
	}
	if (write(r.exits, b, (size_t)n) != n) {
		(void)!ftruncate(r.exits, before.st_size); // no half lines
		return -1;
	}
	rotate_exits();
	return 0;
}

static void node_ended(int status);

// collect reaps whoever has exited, each after its status is in the log.
static void collect(void) {
	siginfo_t i = {0};
	// The node first, and by name: a status that cannot be logged holds up
	// the others behind it, but not the next node.
	if (r.node > 0 && waitid(P_PID, (id_t)r.node, &i, WEXITED | WNOHANG) == 0 && i.si_pid != 0) {
		node_ended(wait_status(&i));
	}
	r.unlogged = 0;
	for (;;) {
		i.si_pid = 0;
		if (waitid(P_ALL, 0, &i, WEXITED | WNOHANG | WNOWAIT) != 0 || i.si_pid == 0) {
			return;
		}
		if (i.si_pid == r.node) {
			return; // it died just now: its signal comes
		}
		if (log_exit(&i) != 0) {
			r.unlogged = 1;
			return;
		}
		waitid(P_PID, (id_t)i.si_pid, &i, WEXITED);
	}
}

// node_ended decides what follows the node's death. Exit code 0 means that it
// has nothing to do, and so have we.
static void node_ended(int status) {
	dprintf(2, "reaper: node %d ended with wait status %#x\n", r.node, status);
	if (r.node_sock >= 0) {
		close(r.node_sock);
		r.node_sock = -1;
	}
	r.node = 0;
	if (status == 0 || r.stopping) {
		_exit(0);
	}
	if (!r.ready) {
		_exit(1); // it could not start, and has told the launcher why
	}
	int64_t now = now_ms();
	if (now - r.node_started >= SHORT_LIFE_MS) {
		r.delay = 0;
	} else {
		r.delay = r.delay == 0 ? DELAY_MIN_MS : r.delay * 2;
		r.delay = r.delay > DELAY_MAX_MS ? DELAY_MAX_MS : r.delay;
	}
	r.start_at = now + r.delay;
}

// exec_node becomes the node: this same file, even when the path it was
// started from holds a newer one by now. An upgrade takes effect when the node
// has ended and the next command starts another.
static void exec_node(pid_t parent, int sock) {
	// The node does not outlive us: nobody would collect its children.
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent) {
		_exit(1);
	}
	sock = fcntl(sock, F_DUPFD_CLOEXEC, 10); // out of the way of what follows
	if (r.launcher >= 0) {
		dup2(r.launcher, NODE_REPORT);
	}
	dup2(sock, NODE_REAPER);
	setenv(NODE_VARIABLE, r.launcher >= 0 ? NODE_FIRST : NODE_AGAIN, 1);
	setrlimit(RLIMIT_NOFILE, &r.files);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	char *argv[] = {"podrun", "node", NULL};
	execv("/proc/self/exe", argv);
	dprintf(2, "reaper: exec node: %s\n", strerror(errno));
	_exit(127);
}

static void start_node(void) {
	int pair[2];
	pid_t me = getpid();
	r.node_started = now_ms();
	r.start_at = r.node_started + DELAY_MAX_MS; // when we fail below
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
		dprintf(2, "reaper: socketpair: %s\n", strerror(errno));
		return;
	}
	pid_t p = fork();
	if (p == 0) {
		exec_node(me, pair[1]);
	}
	close(pair[1]);
	if (p < 0) {
		dprintf(2, "reaper: fork: %s\n", strerror(errno));
		close(pair[0]);
		return;
	}
	r.node = p;
	r.node_sock = pair[0];
	if (r.launcher >= 0) {
		close(r.launcher); // the launcher now sees the end when the node dies
		r.launcher = -1;
	}
}

// One descriptor's worth of ancillary data, aligned as the kernel wants it.
union ancillary {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int))];
};

static void answer(int32_t err, int fd) {
	struct iovec iov = {&err, sizeof err};
	union ancillary a = {0};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	if (fd >= 0) {
		m.msg_control = &a;
		m.msg_controllen = sizeof a;
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof fd);
		memcpy(CMSG_DATA(c), &fd, sizeof fd);
	}
	// A node that does not read its answers does not stop us.
	(void)!sendmsg(r.node_sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

// serve answers one request of the node.
static void serve(void) {
	char b[KEY_MAX + 2];
	struct iovec iov = {b, sizeof b - 1};
	union ancillary a;
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &a, .msg_controllen = sizeof a};
	ssize_t n = recvmsg(r.node_sock, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		return;
	}
	if (n <= 0) {
		close(r.node_sock); // the node is gone; its status comes by signal
		r.node_sock = -1;
		return;
	}
	int fd = -1;
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	if (c != NULL && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof fd)) {
		memcpy(&fd, CMSG_DATA(c), sizeof fd);
	}
	b[n] = 0;
	const char *key = b + 1;
	int err = m.msg_flags & MSG_TRUNC ? ENAMETOOLONG : 0;
	int found = -1;
	if (err == 0) {
		switch (b[0]) {
		case ASK_KEEP:
			// No descriptor came: we have as many open as we may.
			err = fd < 0 && m.msg_flags & MSG_CTRUNC ? EMFILE : keep(key, fd);
			if (err == 0) {
				fd = -1;
			}
			break;
		case ASK_GET:
			found = kept(key);
			err = found < 0 ? ENOENT : 0;
			break;
		case ASK_DROP:
			drop(key);
			break;
		case ASK_SYNC:
			break; // collect() came before
		case ASK_READY:
			r.ready = 1;
			break;
		default:
			err = EINVAL;
		}
	}
	if (fd >= 0) {
		close(fd);
	}
	answer(err, found);
}

static void take_signals(void) {
	struct signalfd_siginfo s;
	while (read(r.signals, &s, sizeof s) == sizeof s) {
		if (s.ssi_signo != SIGTERM) {
			continue;
		}
		dprintf(2, "reaper: process %u asks for the end\n", s.ssi_pid);
		r.stopping = 1;
		if (r.node == 0) {
			_exit(0);
		}
		kill(r.node, SIGTERM); // not reaped yet, so it is its pid still
	}
}

static int timeout(void) {
	if (r.node == 0) {
		int64_t left = r.start_at - now_ms();
		return left > 0 ? (int)left : 0;
	}
	return r.unlogged ? 1000 : -1;
}

static void run(void) {
	for (;;) {
		if (r.node == 0 && timeout() == 0) {
			start_node();
		}
		// poll ignores a negative descriptor.
		struct pollfd p[] = {{.fd = r.signals, .events = POLLIN}, {.fd = r.node_sock, .events = POLLIN}};
		poll(p, 2, timeout());
		take_signals();
		// Before any answer: who asks for a status after the process's pidfd
		// said that it ended finds it in the log.
		collect();
		if (r.node_sock >= 0 && p[1].revents != 0) {
			serve();
		}
	}
}

__attribute__((constructor(101))) static void podrun_reaper(int argc, char **argv) {
	if (argc != 3 || strcmp(argv[0], REAPER_NAME) != 0) {
		return;
	}
	// close_range is 5.9. Whatever the caller's caller left open is not ours.
	syscall(SYS_close_range, REAPER_MOUNTNS + 1, ~0U, 0);
	detach();
	tell("namespaces", namespaces(argv[1]) == 0 ? 0 : errno);
	syscall(SYS_close_range, REAPER_USERNS, REAPER_MOUNTNS, 0);
	await();
	tell("mounts", become_root(argv[1]) == 0 ? 0 : errno);
	if (argv[2][0] == 0) {
		try_overlay();
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	getrlimit(RLIMIT_NOFILE, &r.files);
	struct rlimit most = {r.files.rlim_max, r.files.rlim_max};
	setrlimit(RLIMIT_NOFILE, &most); // a few descriptors are kept for each container
	sigset_t taken;
	sigemptyset(&taken);
	sigaddset(&taken, SIGCHLD);
	sigaddset(&taken, SIGTERM);
	r.signals = signalfd(-1, &taken, SFD_CLOEXEC | SFD_NONBLOCK);
	r.state = open(argv[2], O_PATH | O_DIRECTORY | O_CLOEXEC);
	int err = r.signals < 0 || r.state < 0 || chdir("/") != 0 ? errno : 0;
	tell("state", err == 0 && open_exits() < 0 ? errno : err);
	run();
}
