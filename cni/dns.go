package cni

import (
	"bufio"
	"errors"
	"log/slog"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/miekg/dns"
)

const (
	dnsPort = "53"
	// resolverTimeout is how long one of the host's resolvers has to answer.
	resolverTimeout = 3 * time.Second
	// maxResolvers is how many resolv.conf may name (resolv.conf(5)).
	maxResolvers = 3
)

// resolver answers the pods' DNS queries, in the pod network, with what the
// host's resolvers say. It asks them from the host's network namespace: a resolver on
// the host's loopback, such as systemd-resolved's, is reached.
type resolver struct {
	path    string
	log     *slog.Logger
	servers []*dns.Server
	wait    sync.WaitGroup
}

// openDNS listens in the pod network, on every address that this process has
// there: the bridge's own, and those of bridges that executed plugins made. A
// kernel socket costs less than one of the gateway's stack, and pods without
// an uplink have names too.
func (n *Network) openDNS() (*resolver, error) {
	var packets net.PacketConn
	var streams net.Listener
	err := n.pods.Do(func(ns.NetNS) (err error) {
		if packets, err = net.ListenPacket("udp", ":"+dnsPort); err != nil {
			return err
		}
		if streams, err = net.Listen("tcp", ":"+dnsPort); err != nil {
			return errors.Join(err, packets.Close())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r := &resolver{path: n.o.ResolvConf, log: n.log}
	r.servers = []*dns.Server{
		// The library wakes up after each ReadTimeout to read on: an idle node
		// does not wake up.
		{PacketConn: packets, Handler: r, ReadTimeout: math.MaxInt32 * time.Second},
		{Listener: streams, Handler: r},
	}
	for _, server := range r.servers {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		r.wait.Go(func() {
			if err := server.ActivateAndServe(); err != nil {
				n.log.Debug("DNS ends", "err", err)
			}
		})
		<-started
	}
	return r, nil
}

func (r *resolver) close() {
	for _, s := range r.servers {
		_ = s.Shutdown()
	}
	r.wait.Wait()
}

// ServeDNS forwards a query to the host's resolvers in turn, over the protocol
// it came by. When none answers, the pod is told so (SERVFAIL).
func (r *resolver) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	client := dns.Client{Timeout: resolverTimeout}
	if _, ok := w.RemoteAddr().(*net.TCPAddr); ok {
		client.Net = "tcp"
	}
	for _, server := range readResolvConf(r.path).servers {
		answer, _, err := client.Exchange(query, net.JoinHostPort(server, "53"))
		if err != nil {
			r.log.Debug("resolver failed", "server", server, "err", err)
			continue
		}
		_ = w.WriteMsg(answer)
		return
	}
	_ = w.WriteMsg(new(dns.Msg).SetRcode(query, dns.RcodeServerFailure))
}

// hostResolver is what the host's resolv.conf says.
type hostResolver struct {
	servers, searches, options []string
}

// readResolvConf reads resolv.conf(5); what cannot be read says nothing. It is
// read for each query: it is small, and it changes with the network.
func readResolvConf(path string) hostResolver {
	var r hostResolver
	f, err := os.Open(path)
	if err != nil {
		return r
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			if len(r.servers) < maxResolvers {
				r.servers = append(r.servers, words[1])
			}
		case "search", "domain":
			r.searches = words[1:]
		case "options":
			r.options = words[1:]
		}
	}
	return r
}
