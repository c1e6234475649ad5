// What the reaper keeps for the nodes to come: descriptors, each under a key.

#ifndef PODRUN_KEPT_H
#define PODRUN_KEPT_H

// keep takes fd over when it returns 0, in place of an older one; else it
// returns an errno.
int keep(const char *key, int fd);

// kept returns the key's descriptor, which stays kept, or -1.
int kept(const char *key);

// drop closes the key's descriptor if there is one.
void drop(const char *key);

#endif
