package cni

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What resolv.conf(5) says when the file does not, and the most it allows.
const (
	maxResolvers    = 3
	defaultTimeout  = 5 * time.Second
	maxTimeout      = 30 * time.Second
	defaultAttempts = 2
	maxAttempts     = 5
	// maxResolvConf is how much of the file is read, in bytes.
	maxResolvConf = 1 << 20
)

// hostResolver is what the host's resolv.conf says.
type hostResolver struct {
	servers           []netip.Addr // an IPv6 one may have a zone; never more than maxResolvers
	searches, options []string     // as they stand there
	timeout           time.Duration
	attempts          int
	rotate            bool // begin with another server each time
	tcp               bool // use-vc: never ask over UDP
	edns              bool // edns0
	noTLD             bool // no-tld-query: a single label is no name by itself
}

// resolvConfText is what stands in a file, "" for one that cannot be read.
func resolvConfText(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	text, _ := io.ReadAll(io.LimitReader(f, maxResolvConf))
	return text
}

// parseResolvConf reads resolv.conf(5); what it does not know says nothing.
func parseResolvConf(text []byte) hostResolver {
	r := hostResolver{timeout: defaultTimeout, attempts: defaultAttempts}
	for line := range bytes.Lines(text) {
		words := strings.Fields(string(line))
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			if server, err := netip.ParseAddr(words[1]); err == nil && len(r.servers) < maxResolvers {
				r.servers = append(r.servers, server.Unmap())
			}
		case "search", "domain": // the last line counts
			r.searches = nil
			for _, s := range words[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				r.searches = append(r.searches, s)
			}
		case "options":
			for _, o := range words[1:] {
				r.option(o)
			}
		}
	}
	return r
}

// option notes an option; one that comes again counts as it stands last.
func (r *hostResolver) option(option string) {
	name, value, _ := strings.Cut(option, ":")
	r.options = slices.DeleteFunc(r.options, func(o string) bool {
		other, _, _ := strings.Cut(o, ":")
		return other == name
	})
	r.options = append(r.options, option)
	n, err := strconv.Atoi(value)
	switch {
	case name == "timeout" && err == nil:
		r.timeout = min(max(time.Duration(n)*time.Second, time.Second), maxTimeout)
	case name == "attempts" && err == nil:
		r.attempts = min(max(n, 1), maxAttempts)
	case name == "rotate":
		r.rotate = true
	case name == "use-vc":
		r.tcp = true
	case name == "edns0":
		r.edns = true
	case name == "no-tld-query":
		r.noTLD = true
	}
}

// dns is what a program on the host is told.
func (r hostResolver) dns() DNS {
	d := DNS{Searches: r.searches, Options: r.options}
	for _, s := range r.servers {
		d.Servers = append(d.Servers, s.String())
	}
	return d
}

// ask are the servers that a program on the host asks: without any, the one on
// this machine.
func (r hostResolver) ask() []netip.Addr {
	if len(r.servers) == 0 {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return r.servers
}
