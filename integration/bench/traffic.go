package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	trafficTime   = time.Second // of a measurement of throughput
	streams       = 100
	connections   = 10_000
	dialers       = 50
	datagramBytes = 1400
	datagramsOut  = 32 // on their way at a time
	roundTrips    = 2000
)

// serveTraffic answers on a TCP and a UDP port. The first byte of a connection
// says what it is for: s to sink, g to give, e to echo; nothing: neither.
func serveTraffic(address string) (port int, err error) {
	l, err := net.Listen("tcp4", address)
	if err != nil {
		return 0, err
	}
	u, err := net.ListenPacket("udp4", l.Addr().String())
	if err != nil {
		return 0, errors.Join(err, l.Close())
	}
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(buf[:n], from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				answerTraffic(c)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func answerTraffic(c net.Conn) {
	kind, buf := make([]byte, 1), make([]byte, 1<<17)
	if _, err := io.ReadFull(c, kind); err != nil {
		return
	}
	switch kind[0] {
	case 's':
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	case 'g':
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	case 'e':
		_, _ = io.Copy(c, c)
	}
}

// traffic measures one kind and returns its figure.
func traffic(kind, address string) (float64, error) {
	switch kind {
	case "up":
		return stream(address, "s", 1)
	case "down":
		return stream(address, "g", 1)
	case "up-many":
		return stream(address, "s", streams)
	case "connect":
		return connect(address)
	case "udp":
		return datagrams(address)
	case "latency":
		return latency(address)
	}
	return 0, fmt.Errorf("no traffic %q", kind)
}

// stream returns Gbit/s over n connections.
func stream(address, kind string, n int) (float64, error) {
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range n {
		c, err := net.DialTimeout("tcp4", address, 30*time.Second)
		if err != nil {
			return 0, fmt.Errorf("stream %d of %d: %w", len(conns)+1, n, err)
		}
		conns = append(conns, c)
	}
	var total atomic.Int64
	var wait sync.WaitGroup
	began := time.Now()
	for _, c := range conns {
		_ = c.SetDeadline(began.Add(trafficTime))
		wait.Go(func() {
			_, err := io.WriteString(c, kind)
			for buf, k := make([]byte, 1<<17), 0; err == nil; total.Add(int64(k)) {
				if kind == "s" {
					k, err = c.Write(buf)
				} else {
					k, err = c.Read(buf)
				}
			}
		})
	}
	wait.Wait()
	return float64(total.Load()) * 8 / time.Since(began).Seconds() / 1e9, nil
}

// connect returns how many connections come and go in a second.
func connect(address string) (float64, error) {
	var left atomic.Int64
	left.Store(connections)
	var wait sync.WaitGroup
	var failed atomic.Value
	began := time.Now()
	for range dialers {
		wait.Go(func() {
			buf := make([]byte, 2)
			for left.Add(-1) >= 0 {
				c, err := net.DialTimeout("tcp4", address, 10*time.Second)
				if err == nil {
					_ = c.SetDeadline(time.Now().Add(10 * time.Second))
					if _, err = io.WriteString(c, "ex"); err == nil {
						_, err = io.ReadFull(c, buf[:1])
					}
					_ = c.Close()
				}
				if err != nil {
					failed.CompareAndSwap(nil, err)
					return
				}
			}
		})
	}
	wait.Wait()
	if err, ok := failed.Load().(error); ok {
		return 0, err
	}
	return connections / time.Since(began).Seconds(), nil
}

// datagrams returns how many go there and back in a second.
func datagrams(address string) (float64, error) {
	c, err := net.Dial("udp4", address)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	buf := make([]byte, datagramBytes)
	for range datagramsOut {
		if _, err := c.Write(buf); err != nil {
			return 0, err
		}
	}
	began, answers := time.Now(), 0
	for time.Since(began) < trafficTime {
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := c.Read(buf); err == nil {
			answers++
		}
		// One for each answer, or for one that was lost.
		if _, err := c.Write(buf); err != nil {
			return 0, err
		}
	}
	return float64(answers) / time.Since(began).Seconds(), nil
}

// latency returns the median of a round trip of one byte, in microseconds.
func latency(address string) (float64, error) {
	c, err := net.DialTimeout("tcp4", address, 10*time.Second)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c, "e"); err != nil {
		return 0, err
	}
	buf := make([]byte, 1)
	var took []time.Duration
	for range roundTrips {
		began := time.Now()
		if _, err := c.Write(buf); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return float64(took[len(took)/2].Nanoseconds()) / 1000, nil
}
