// What the launcher (launch.go), the reaper (reaper.c) and the node (reaper.go)
// agree on: the words they are started with and the descriptors they are given.

#ifndef PODRUN_REAPER_H
#define PODRUN_REAPER_H

// The reaper is this binary with argv {REAPER_NAME, MODE, STATE}. An empty
// STATE only tries the namespaces and starts nothing.
#define REAPER_NAME "podrun-reaper"
#define REAPER_MODE_USER "user" // make a user and a mount namespace
#define REAPER_MODE_ROOT "root" // make a mount namespace
#define REAPER_MODE_JOIN "join" // join those at REAPER_USERNS and REAPER_MOUNTNS

enum {
	REAPER_LAUNCHER = 3, // seqpacket socket, the other end is Launch's
	REAPER_LOCK = 4,     // node.lock, locked
	REAPER_USERNS = 5,   // closed when the user namespace is ours already
	REAPER_MOUNTNS = 6,
};

// The node is this binary with argv {"podrun", "node"} and NODE_VARIABLE set.
#define NODE_VARIABLE "PODRUN_NODE"
#define NODE_FIRST "first" // NODE_REPORT is there
#define NODE_AGAIN "again" // an earlier node died

enum {
	NODE_REAPER = 3, // seqpacket socket, requests below
	NODE_LOCK = 4,   // the same open file as REAPER_LOCK
	NODE_REPORT = 5, // the launcher waits here for one message
};

// A request is one packet: a byte of these, then a key without a NUL at its
// end. The answer is an errno as a native int32; ASK_GET's brings the
// descriptor along.
enum {
	ASK_KEEP = 'k',  // with one descriptor: hold it under the key, in place of an older one
	ASK_GET = 'g',   // a copy of the key's descriptor, or ENOENT
	ASK_DROP = 'd',  // close the key's descriptor if there is one
	ASK_SYNC = 's',  // whoever has exited is in the log when the answer comes
	ASK_READY = 'r', // the node serves: from now on its death is not a failed start
};

enum { KEY_MAX = 255 };

#endif
