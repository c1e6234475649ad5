package main

import (
	"fmt"
	"io"
	"net"
	"time"
)

// serveTCP accepts connections and sends back what they send.
func serveTCP(args []string) error {
	f := flags("tcp")
	port := f.Int("port", 8080, "port to listen on")
	listenAfter := f.Duration("listen-after", 0, "listen that much later")
	listenFor := f.Duration("listen-for", 0, "refuse connections afterwards; 0: never")
	_ = f.Parse(args)
	time.Sleep(*listenAfter)
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", *port))
	if err != nil {
		return err
	}
	fmt.Printf("serving on %v\n", listener.Addr())
	if *listenFor > 0 {
		time.AfterFunc(*listenFor, func() { _ = listener.Close() })
	}
	accept(listener, func(c net.Conn) { _, _ = io.Copy(c, c) })
	select {}
}

// accept handles each connection until the listener is closed.
func accept(listener net.Listener, handle func(net.Conn)) {
	for {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			handle(c)
		}()
	}
}

// proxy joins a connection with a new one to an address.
func proxy(c net.Conn, to string) {
	d, err := net.Dial("tcp", to)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = d.Close() }()
	go func() {
		_, _ = io.Copy(d, c)
		_ = d.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(c, d)
}
