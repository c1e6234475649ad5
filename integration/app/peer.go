package main

import (
	"fmt"
	"io"
	"net"
)

// servePeer says by which address it sees who asks, over TCP and UDP, and sends
// back what it gets: a line with the address before all else on a connection,
// and before the datagram's own bytes in each answer.
func servePeer(args []string) error {
	f := flags("peer")
	address := f.String("address", "", "address to listen on; all of them by default")
	port := f.Int("port", 8080, "port to listen on, TCP and UDP")
	_ = f.Parse(args)
	at := net.JoinHostPort(*address, fmt.Sprint(*port))
	packets, err := net.ListenPacket("udp", at)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	fmt.Printf("serving on %v\n", listener.Addr())
	go accept(listener, func(c net.Conn) {
		_, _ = fmt.Fprintln(c, c.RemoteAddr())
		_, _ = io.Copy(c, c)
	})
	b := make([]byte, 64<<10)
	for {
		n, from, err := packets.ReadFrom(b)
		if err != nil {
			return err
		}
		_, _ = packets.WriteTo(append(fmt.Appendln(nil, from), b[:n]...), from)
	}
}
