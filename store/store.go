// Package store keeps revisioned objects on disk and tells who asks of every
// change.
//
// An object is bytes under a kind, a namespace and a name; what they mean is
// the caller's affair. Every change has a revision of its own, a number that
// grows over all objects and never repeats, also after a crash. A commit is
// on disk (fsync) before it is acknowledged or seen by a watcher.
//
// One process opens a store at a time. Its methods are safe for concurrent
// use. It does not validate, index or convert objects.
package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"get.podrun.dev/podrun/internal/atomicfile"
	"get.podrun.dev/podrun/internal/fault"
	"get.podrun.dev/podrun/internal/hint"
)

// Errors that callers act on.
var (
	ErrNotFound = errors.New("no such object")
	ErrExists   = errors.New("object exists")
	ErrClosed   = errors.New("store is closed")
)

// schema is the version of what is on disk. A store of a later one is refused.
const schema = 1

// defaultHistory is how many changes are kept for watchers that come late.
const defaultHistory = 10_000

// Key names an object. No part may hold a NUL byte; Namespace may be empty.
type Key struct {
	Kind, Namespace, Name string
}

// String is kind namespace/name, for messages.
func (k Key) String() string { return k.Kind + " " + k.Namespace + "/" + k.Name }

func (k Key) bytes() []byte { return []byte(k.Kind + "\x00" + k.Namespace + "\x00" + k.Name) }

func parseKey(b []byte) Key {
	parts := strings.SplitN(string(b), "\x00", 3)
	if len(parts) != 3 {
		return Key{}
	}
	return Key{parts[0], parts[1], parts[2]}
}

func (k Key) check() error {
	if k.Kind == "" || k.Name == "" || strings.ContainsRune(k.Kind+k.Namespace+k.Name, 0) {
		return fmt.Errorf("internal error: bad store key %q", k.String())
	}
	return nil
}

// Object is a stored object. Value belongs to the caller.
type Object struct {
	Key
	Revision uint64 // of the last change
	Created  uint64 // of the first
	Value    []byte
}

// Options of a store; the zero value is fine.
type Options struct {
	// Version is that of the program. It is written down for one that is too old
	// for the store, and for nothing else.
	Version string
	Logger  *slog.Logger // nil discards
	History int          // changes kept for Watch; 0 is 10,000
}

var (
	bucketObjects = []byte("objects") // key -> created, revision, value
	bucketLog     = []byte("log")     // revision -> event as JSON
	bucketMeta    = []byte("meta")
	keySchema     = []byte("schema")
	keyWriter     = []byte("writer") // the version of the program that opened it last
	keyRevision   = []byte("revision")
)

// Store is an open store. Close it.
type Store struct {
	db      *bbolt.DB
	log     *slog.Logger
	history int

	// writing orders a commit with its publication: bbolt runs its commit
	// handlers after the next writer may have begun.
	writing sync.Mutex

	mu       sync.Mutex
	watchers map[*Watcher]struct{}
	revision uint64 // of the last commit that watchers were told of
	closed   bool
}

// Open opens the store at path, making it and its directory (mode 0700) if
// need be. It fails when another process has it open.
func Open(path string, o Options) (*Store, error) {
	if err := create(path, o.Version); err != nil {
		return nil, fmt.Errorf("cannot make store %q: %w", path, err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 5 * time.Second, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, hint.Wrap(fmt.Errorf("cannot open store %q: another process has it open", path), `end the other podrun node, or set PODRUN_DATA to another directory`)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open store %q: %w", path, err)
	}
	s := &Store{db: db, log: o.Logger, history: o.History, watchers: map[*Watcher]struct{}{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.history == 0 {
		s.history = defaultHistory
	}
	if err := s.prepare(path, o.Version); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// create makes the file of a store that is not there. A crash or a power cut
// leaves a whole one under its name, or none: bbolt opens no file that was half
// written. When create has returned the name is on disk.
func create(path, version string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir := filepath.Dir(path)
	if err := makeDir(dir); err != nil {
		return err
	}
	for _, left := range leftOver(path) { // by a crash
		if err := os.Remove(left); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+newSuffix)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if err := f.Close(); err != nil {
		return err
	}
	db, err := bbolt.Open(f.Name(), 0o600, nil)
	if err != nil {
		return err
	}
	if err := errors.Join(lay(db, version), db.Close()); err != nil {
		return err
	}
	// Not a rename: another process may have made the store meanwhile, and have
	// taken our file for what a crash left.
	if err := os.Link(f.Name(), path); err != nil {
		if _, there := os.Stat(path); there != nil {
			return err
		}
	}
	return atomicfile.SyncDir(dir)
}

// newSuffix is between the name of a store and what tells apart those that are
// being made for it.
const newSuffix = ".new-"

func leftOver(path string) []string {
	entries, _ := os.ReadDir(filepath.Dir(path))
	var left []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(path)+newSuffix) {
			left = append(left, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	return left
}

// makeDir is MkdirAll with mode 0700, with the new names on disk when it
// returns.
func makeDir(dir string) error {
	if err := os.Mkdir(dir, 0o700); err == nil {
		return atomicfile.SyncDir(filepath.Dir(dir))
	} else if errors.Is(err, fs.ErrExist) {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	return makeDir(dir)
}

// lay makes the buckets of a new store, and writes down who opened it last.
func lay(db *bbolt.DB, version string) error {
	return db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketObjects, bucketLog, bucketMeta} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		return errors.Join(meta.Put(keySchema, encodeNumber(schema)), meta.Put(keyWriter, []byte(version)))
	})
}

// prepare checks the schema of the store, and makes one of an empty file.
func (s *Store) prepare(path, version string) error {
	ready := false
	err := s.db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			return nil
		}
		writer := string(meta.Get(keyWriter))
		ready = writer == version
		if v := number(meta.Get(keySchema)); v > schema {
			return tooNew(path, v, writer, version)
		}
		s.revision = number(meta.Get(keyRevision))
		return nil
	})
	if err != nil || ready {
		return err
	}
	return lay(s.db, version)
}

// tooNew refuses a store that a later program wrote, by its name.
func tooNew(path string, is uint64, writer, version string) error {
	mend := "use podrun " + writer + " or a later one"
	if writer == "" {
		writer, mend = "of a later version", "use the podrun that wrote it"
	}
	if version == "" {
		version = "of an unknown version"
	}
	return hint.Wrap(fmt.Errorf("cannot open store %q: podrun %s wrote it, with schema %d; this podrun, %s, knows schemas up to %d", path, writer, is, version, schema),
		mend)
}

// Close ends all watches and closes the store.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	for w := range s.watchers {
		w.end(ErrClosed)
	}
	clear(s.watchers)
	s.mu.Unlock()
	return s.db.Close()
}

// Get returns one object; ErrNotFound when it is not there.
func (s *Store) Get(k Key) (Object, error) {
	var o Object
	err := s.db.View(func(tx *bbolt.Tx) (err error) {
		o, err = get(tx, k)
		return err
	})
	return o, err
}

// List returns all objects of a kind in one namespace, or in all for "",
// ordered by namespace and name, and the revision they were read at.
func (s *Store) List(kind, namespace string) ([]Object, uint64, error) {
	var objects []Object
	var revision uint64
	err := s.db.View(func(tx *bbolt.Tx) error {
		revision = number(tx.Bucket(bucketMeta).Get(keyRevision))
		objects = list(tx, kind, namespace)
		return nil
	})
	return objects, revision, err
}

// Tx is a commit in the making. It is valid inside the function that Update
// calls, on its goroutine.
type Tx struct {
	tx       *bbolt.Tx
	revision uint64
	events   []Event
	leaves   bool // room
}

// Update commits what fn does, all or nothing, and returns the revision of the
// last change. An error of fn is returned as it is and nothing has changed; so it
// is after an error of the disk, unless two flushes in a row failed: then the
// change may be there all the same.
// One Update runs at a time; fn must not call the store but through its Tx.
func (s *Store) Update(fn func(tx *Tx) error) (uint64, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	var t Tx
	err := s.db.Update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		t = Tx{tx: tx, revision: number(meta.Get(keyRevision))}
		if err := fn(&t); err != nil {
			return err
		}
		if len(t.events) == 0 {
			return nil
		}
		if err := t.record(s.history); err != nil {
			return err
		}
		if err := meta.Put(keyRevision, encodeNumber(t.revision)); err != nil {
			return err
		}
		if t.leaves {
			if err := t.makeRoom(s.db.Path()); err != nil {
				return err
			}
		}
		return fault.Point("store.commit")
	})
	if err == nil {
		err = fault.Point("store.committed") // as if the last flush had failed
	}
	if err != nil && len(t.events) > 0 && s.shows(t.revision) {
		// What failed is the flush of the page that makes the commit count: all
		// that read see it. The next commit writes another such page.
		err = s.db.Update(func(*bbolt.Tx) error { return nil })
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return 0, hint.Wrap(fmt.Errorf("save the change: %w", err), "free space on its disk; what was saved before is kept")
	}
	if err != nil {
		return 0, err
	}
	if len(t.events) > 0 {
		s.publish(t.events, t.revision)
	}
	return t.revision, nil
}

// shows tells whether the commit of revision is what is read.
func (s *Store) shows(revision uint64) (is bool) {
	err := s.db.View(func(tx *bbolt.Tx) error {
		is = number(tx.Bucket(bucketMeta).Get(keyRevision)) == revision
		return nil
	})
	return err == nil && is
}

// Get returns one object as the commit so far has it.
func (t *Tx) Get(k Key) (Object, error) { return get(t.tx, k) }

// List returns the objects of a kind as the commit so far has them.
func (t *Tx) List(kind, namespace string) ([]Object, error) {
	return list(t.tx, kind, namespace), nil
}

// Put creates or replaces an object. encode gives its bytes for the revision
// that this change gets.
func (t *Tx) Put(k Key, encode func(revision uint64) ([]byte, error)) error {
	if err := k.check(); err != nil {
		return err
	}
	t.revision++
	value, err := encode(t.revision)
	if err != nil {
		return fmt.Errorf("encode %s: %w", k, err)
	}
	e := Event{Type: Added, Object: Object{Key: k, Revision: t.revision, Created: t.revision, Value: value}}
	if old, err := get(t.tx, k); err == nil {
		e.Type, e.Object.Created = Modified, old.Created
	}
	head := append(encodeNumber(e.Object.Created), encodeNumber(t.revision)...)
	if err := t.tx.Bucket(bucketObjects).Put(k.bytes(), append(head, value...)); err != nil {
		return err
	}
	t.events = append(t.events, e)
	return nil
}

// Create is Put of an object that is not there; ErrExists when it is.
func (t *Tx) Create(k Key, encode func(revision uint64) ([]byte, error)) error {
	if _, err := get(t.tx, k); err == nil {
		return fmt.Errorf("%s: %w", k, ErrExists)
	}
	return t.Put(k, encode)
}

// Delete removes an object; ErrNotFound when it is not there.
func (t *Tx) Delete(k Key) error {
	old, err := get(t.tx, k)
	if err != nil {
		return err
	}
	t.revision++
	old.Revision = t.revision
	if err := t.tx.Bucket(bucketObjects).Delete(k.bytes()); err != nil {
		return err
	}
	t.events = append(t.events, Event{Type: Deleted, Object: old})
	return nil
}

// record keeps the commit's changes for watchers that come late, and drops
// the oldest beyond limit.
func (t *Tx) record(limit int) error {
	b := t.tx.Bucket(bucketLog)
	for _, e := range t.events {
		data, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if err := b.Put(encodeNumber(e.Object.Revision), data); err != nil {
			return err
		}
	}
	c := b.Cursor()
	for k, _ := c.First(); k != nil && number(k)+uint64(limit) <= t.revision; k, _ = c.First() {
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

func get(tx *bbolt.Tx, k Key) (Object, error) {
	v := tx.Bucket(bucketObjects).Get(k.bytes())
	if v == nil {
		return Object{}, fmt.Errorf("%s: %w", k, ErrNotFound)
	}
	return object(k, v), nil
}

func list(tx *bbolt.Tx, kind, namespace string) []Object {
	prefix := kind + "\x00"
	if namespace != "" {
		prefix += namespace + "\x00"
	}
	var objects []Object
	c := tx.Bucket(bucketObjects).Cursor()
	for k, v := c.Seek([]byte(prefix)); k != nil && strings.HasPrefix(string(k), prefix); k, v = c.Next() {
		objects = append(objects, object(parseKey(k), v))
	}
	return objects
}

// object decodes what is on disk; bbolt's memory is not kept.
func object(k Key, v []byte) Object {
	return Object{Key: k, Created: number(v[:8]), Revision: number(v[8:16]), Value: append([]byte(nil), v[16:]...)}
}

func encodeNumber(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func number(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
