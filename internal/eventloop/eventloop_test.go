package eventloop_test

import (
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/eventloop"
)

func open(t *testing.T) *eventloop.Loop {
	t.Helper()
	l, err := eventloop.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// reader takes what comes and tells of it.
type reader struct {
	fd  int
	got chan string
}

func (r reader) Ready(uint32) {
	var b [100]byte
	if n, err := unix.Read(r.fd, b[:]); err == nil {
		r.got <- string(b[:n])
	}
}

func pipe(t *testing.T) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(p[0]), unix.Close(p[1]) })
	return p[0], p[1]
}

// TestReady: handlers are called for their own descriptor, until it is removed.
func TestReady(t *testing.T) {
	l := open(t)
	var ends [2]int
	var readers [2]reader
	for i := range ends {
		r, w := pipe(t)
		ends[i], readers[i] = w, reader{r, make(chan string, 1)}
		if err := l.Add(r, unix.EPOLLIN, readers[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i, text := range []string{"first", "second"} {
		if _, err := unix.Write(ends[i], []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got := <-readers[i].got; got != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
	l.Remove(readers[0].fd)
	for _, w := range ends {
		if _, err := unix.Write(w, []byte("more")); err != nil {
			t.Fatal(err)
		}
	}
	<-readers[1].got
	select {
	case got := <-readers[0].got:
		t.Errorf("got %q after Remove", got)
	default:
	}
}

// replacer removes two descriptors at its first call and puts another in the
// place of the other's number.
type replacer func()

func (r replacer) Ready(uint32) { r() }

// TestStaleEvent: an event that was taken before its descriptor was removed is
// not given to the next descriptor of the same number.
func TestStaleEvent(t *testing.T) {
	l := open(t)
	quiet, _ := pipe(t)
	var once sync.Once
	done := make(chan struct{})
	var stale atomic.Bool
	var fds []int
	begin := make(chan struct{})
	l.Do(func() { <-begin }) // so that both are ready at the same time
	for range 2 {
		r, w := pipe(t)
		if _, err := unix.Write(w, []byte("x")); err != nil {
			t.Fatal(err)
		}
		fds = append(fds, r)
	}
	for i, fd := range fds {
		other := fds[1-i]
		err := l.Add(fd, unix.EPOLLIN, replacer(func() {
			once.Do(func() {
				l.Remove(fd)
				l.Remove(other)
				if err := unix.Dup3(quiet, other, unix.O_CLOEXEC); err != nil {
					t.Error(err)
				}
				if err := l.Add(other, unix.EPOLLIN, replacer(func() { stale.Store(true) })); err != nil {
					t.Error(err)
				}
				l.Do(func() { close(done) })
			})
		}))
		if err != nil {
			t.Fatal(err)
		}
	}
	close(begin)
	<-done
	if stale.Load() {
		t.Error("the event of a removed descriptor went to the next one of its number")
	}
}

// TestDo: all that is given is called, in order, on one goroutine, and Close
// waits for it.
func TestDo(t *testing.T) {
	l := open(t)
	var order []int
	for i := range 1000 {
		if !l.Do(func() { order = append(order, i) }) {
			t.Fatal("not called before Close")
		}
	}
	l.Close()
	for i, n := range order {
		if i != n {
			t.Fatalf("call %d came at place %d", n, i)
		}
	}
	if len(order) != 1000 {
		t.Errorf("%d of 1000 were called", len(order))
	}
	if l.Do(func() {}) {
		t.Error("Do after Close says that it will be called")
	}
	r, _ := pipe(t)
	if err := l.Add(r, unix.EPOLLIN, reader{}); err == nil {
		t.Error("Add after Close succeeds")
	}
	l.Remove(r)
	l.Close()
}

// TestCallsLeaveRoom: calls of which each asks for the next keep no descriptor
// waiting.
func TestCallsLeaveRoom(t *testing.T) {
	l := open(t)
	fd, w := pipe(t)
	r := reader{fd, make(chan string, 1)}
	if err := l.Add(fd, unix.EPOLLIN, r); err != nil {
		t.Fatal(err)
	}
	var enough atomic.Bool
	var again func()
	again = func() {
		if !enough.Load() {
			l.Do(again)
		}
	}
	l.Do(again)
	if _, err := unix.Write(w, []byte("x")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.got:
	case <-time.After(10 * time.Second):
		t.Error("the descriptor still waits")
	}
	enough.Store(true)
}

// TestCloseLeavesNothing: a loop gives its descriptors back.
func TestCloseLeavesNothing(t *testing.T) {
	count := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	before := count()
	for range 10 {
		l, err := eventloop.New()
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors, were %d", after, before)
	}
}

// remover removes another descriptor when the loop has been told to close.
type remover struct {
	l          *eventloop.Loop
	own, other int
	of         *removals
}

// removals is what removers do; its lists are the loop's goroutine's.
type removals struct {
	begun           chan struct{}
	removed, called []int
}

func (r remover) Ready(uint32) {
	r.of.called = append(r.of.called, r.own)
	if len(r.of.removed) > 0 {
		return
	}
	close(r.of.begun)
	for r.l.Do(func() {}) {
	}
	r.of.removed = append(r.of.removed, r.other)
	r.l.Remove(r.other)
}

// TestRemoveBesideClose: what is removed on the loop's goroutine is not called
// again while the loop closes either, though its event has been taken.
func TestRemoveBesideClose(t *testing.T) {
	l := open(t)
	of, gate := &removals{begun: make(chan struct{})}, make(chan struct{})
	l.Do(func() { <-gate })
	a, toA := pipe(t)
	b, toB := pipe(t)
	for own, other := range map[int]int{a: b, b: a} {
		if err := l.Add(own, unix.EPOLLIN, remover{l, own, other, of}); err != nil {
			t.Fatal(err)
		}
	}
	for _, w := range []int{toA, toB} {
		if _, err := unix.Write(w, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	close(gate)
	<-of.begun
	l.Close()
	// The other one may be called again before the loop looks whether it is closed.
	if len(of.removed) != 1 || slices.Contains(of.called, of.removed[0]) {
		t.Errorf("removed %v, called %v", of.removed, of.called)
	}
}
