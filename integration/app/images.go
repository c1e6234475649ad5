package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// agnhost is the program of Kubernetes' end-to-end tests. "liveness" is healthy
// for ten seconds, "pause" does nothing.
func agnhost(args []string) error {
	switch strings.Join(args, " ") {
	case "liveness":
		return serveHTTP([]string{"-healthy-for", "10s"})
	case "", "pause":
		select {}
	}
	return fmt.Errorf("agnhost has no %q here", args)
}

// etcd says by gRPC that it is well, and stores nothing. Its flags are etcd's
// and do not matter.
func etcd([]string) error {
	return serveGRPC([]string{"-port", "2379"})
}

// goproxy is a TCP server on 8080.
func goproxy([]string) error {
	return serveTCP([]string{"-port", "8080"})
}

// httpEcho answers every request with a text.
func httpEcho(args []string) error {
	f := flags("http-echo")
	listen := f.String("listen", ":5678", "address to listen on")
	text := f.String("text", "", "what to answer")
	_ = f.Parse(args)
	return answer(*listen, *text+"\n")
}

// node runs server.js of the image node-hello.
func node([]string) error {
	return answer(":8080", "Hello Kubernetes!")
}

func answer(listen, text string) error {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, text) })
	return (&http.Server{Addr: listen, Handler: handler, ReadHeaderTimeout: 10 * time.Second}).ListenAndServe()
}

// socat forwards a port: tcp-listen:PORT,fork tcp-connect:HOST:PORT.
func socat(args []string) error {
	if len(args) != 2 {
		return errors.New("want two addresses")
	}
	port, ok := strings.CutPrefix(args[0], "tcp-listen:")
	to, ok2 := strings.CutPrefix(args[1], "tcp-connect:")
	if !ok || !ok2 {
		return fmt.Errorf("addresses are tcp-listen:PORT,fork and tcp-connect:HOST:PORT here, not %q", args)
	}
	port, _, _ = strings.Cut(port, ",")
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	accept(listener, func(c net.Conn) { proxy(c, to) })
	return nil
}

// stress fills memory as one worker of the real one does.
func stress(args []string) error {
	f := flags("stress")
	_ = f.Int("vm", 1, "workers; always one here")
	size := f.String("vm-bytes", "256M", "memory of each")
	_ = f.Int("vm-hang", 0, "seconds to hold it; for ever here")
	_ = f.Parse(args)
	return eatMemory([]string{"-bytes", *size})
}
