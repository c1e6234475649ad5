package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// lookup looks names up as Go programs do, by /etc/resolv.conf and its search
// path, and prints a line for each: the addresses (or of an address the names),
// "none" for a name that there is not, "failed" when nobody knows.
func lookup(args []string) error {
	f := flags("lookup")
	network := f.String("network", "ip", "ip, ip4 or ip6")
	kind := f.String("type", "address", "address, ptr or txt")
	_ = f.Parse(args)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	resolver := net.Resolver{PreferGo: true}
	for _, name := range f.Args() {
		var found []string
		var err error
		switch *kind {
		case "ptr":
			found, err = resolver.LookupAddr(ctx, name)
		case "txt":
			found, err = resolver.LookupTXT(ctx, name)
		default:
			var ips []net.IP
			ips, err = resolver.LookupIP(ctx, *network, name)
			for _, ip := range ips {
				found = append(found, ip.String())
			}
		}
		var failure *net.DNSError
		switch {
		case errors.As(err, &failure) && failure.IsNotFound:
			fmt.Println("none")
		case err != nil:
			fmt.Println("failed")
		default:
			slices.Sort(found)
			fmt.Println(strings.Join(found, " "))
		}
	}
	return nil
}
