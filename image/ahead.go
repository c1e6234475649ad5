package image

import (
	"errors"
	"io"
)

// errStopped is what a source that was not read to its end ends with.
var errStopped = errors.New("stopped")

const (
	aheadParts = 4       // that wait to be read
	aheadSize  = 1 << 19 // bytes of a part
)

// ahead reads from a source in a goroutine of its own, so that the source and
// whoever reads from ahead work at the same time.
type ahead struct {
	full, free chan []byte
	part, rest []byte // the part that is being read, and what is left of it
	err        error  // the source's, once full is closed
	stop, done chan struct{}
}

// newAhead starts reading. each, if set, is told of every part. Close ends it.
func newAhead(source io.Reader, each func([]byte)) *ahead {
	a := &ahead{
		full: make(chan []byte, aheadParts), free: make(chan []byte, aheadParts),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	for range aheadParts {
		a.free <- nil // made when it is needed: most layers are small
	}
	go func() {
		defer close(a.done)
		defer close(a.full)
		a.err = a.run(source, each)
	}()
	return a
}

func (a *ahead) run(source io.Reader, each func([]byte)) error {
	size := aheadSize / 8 // of the first, so that work begins early
	for {
		var part []byte
		select {
		case part = <-a.free:
		case <-a.stop:
			return errStopped
		}
		if cap(part) < size {
			part = make([]byte, size)
		}
		size = aheadSize
		n, err := fill(source, part[:cap(part)])
		if each != nil {
			each(part[:n])
		}
		a.full <- part[:n] // there is room for all parts
		if err != nil {
			return err
		}
	}
}

// fill reads until p is full or the source ends.
func fill(source io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = source.Read(p[n:])
		n += m
	}
	return n, err
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.part != nil {
			a.free <- a.part
			a.part = nil
		}
		part, ok := <-a.full
		if !ok {
			return 0, a.err
		}
		a.part, a.rest = part, part
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends the reading and waits for it: the source is not touched after. It
// returns the source's error unless that was the end.
func (a *ahead) Close() error {
	close(a.stop)
	<-a.done
	if a.err == io.EOF || a.err == errStopped {
		return nil
	}
	return a.err
}
