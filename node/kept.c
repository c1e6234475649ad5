#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kept.h"

static struct entry {
	char *key;
	int fd;
} *entries;
static size_t len, cap;

static struct entry *find(const char *key) {
	for (size_t i = 0; i < len; i++) {
		if (strcmp(entries[i].key, key) == 0) {
			return &entries[i];
		}
	}
	return NULL;
}

int keep(const char *key, int fd) {
	if (fd < 0) {
		return EBADF;
	}
	struct entry *e = find(key);
	if (e != NULL) {
		close(e->fd);
		e->fd = fd;
		return 0;
	}
	if (len == cap) {
		size_t more = cap == 0 ? 16 : cap * 2;
		void *p = realloc(entries, more * sizeof *entries);
		if (p == NULL) {
			return ENOMEM;
		}
		entries = p;
		cap = more;
	}
	char *copy = strdup(key);
	if (copy == NULL) {
		return ENOMEM;
	}
	entries[len++] = (struct entry){copy, fd};
	return 0;
}

int kept(const char *key) {
	struct entry *e = find(key);
	return e == NULL ? -1 : e->fd;
}

void drop(const char *key) {
	struct entry *e = find(key);
	if (e != NULL) {
		close(e->fd);
		free(e->key);
		*e = entries[--len];
	}
}
