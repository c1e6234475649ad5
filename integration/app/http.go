package main

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// serveHTTP is a web server to be probed. It prints a line for each request,
// and answers
//
//	/healthz       200, from -ready-after on and as long as -healthy-for says
//	/status/503    that status
//	/slow/2s       200, that much later
//	/redirect/X    302 to /X; to another host when X starts with http
//	/fail, /mend   200, and /healthz is 500 from now on, or well again
//	/exit/3        nothing: it ends with that code
//	/big           200 and 100 KB
//	anything else  200 and what was asked: method, URL, host and headers
func serveHTTP(args []string) error {
	f := flags("http")
	address := f.String("address", "", "address to listen on; all if empty")
	port := f.Int("port", 8080, "port to listen on")
	useTLS := f.Bool("tls", false, "speak TLS, with a certificate that nobody signed")
	listenAfter := f.Duration("listen-after", 0, "listen that much later")
	readyAfter := f.Duration("ready-after", 0, "/healthz is 500 at first")
	healthyFor := f.Duration("healthy-for", 0, "/healthz is 500 afterwards; 0: never")
	_ = f.Parse(args)

	started := time.Now()
	time.Sleep(*listenAfter)
	var failing atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		up := time.Since(started)
		if failing.Load() || up < *readyAfter || *healthyFor > 0 && up > *healthyFor {
			http.Error(w, fmt.Sprintf("error: %v", up.Seconds()), http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.PathValue("code"))
		w.WriteHeader(max(100, code))
	})
	mux.HandleFunc("/slow/{duration}", func(w http.ResponseWriter, r *http.Request) {
		d, _ := time.ParseDuration(r.PathValue("duration"))
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/redirect/{to...}", func(w http.ResponseWriter, r *http.Request) {
		to := r.PathValue("to")
		if !strings.HasPrefix(to, "http") {
			to = "/" + to
		}
		http.Redirect(w, r, to, http.StatusFound)
	})
	mux.HandleFunc("/fail", func(http.ResponseWriter, *http.Request) { failing.Store(true) })
	mux.HandleFunc("/mend", func(http.ResponseWriter, *http.Request) { failing.Store(false) })
	mux.HandleFunc("/exit/{code}", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.PathValue("code"))
		os.Exit(code)
	})
	mux.HandleFunc("/big", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("x", 100_000)) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, describe(r)) })
	logged := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Printf("%s %s from %s\n", r.Method, r.URL, cmp.Or(r.UserAgent(), "nobody"))
		mux.ServeHTTP(w, r)
	})

	listener, err := net.Listen("tcp", net.JoinHostPort(*address, strconv.Itoa(*port)))
	if err != nil {
		return err
	}
	fmt.Printf("serving on %v\n", listener.Addr())
	if *useTLS {
		certificate, err := selfSigned()
		if err != nil {
			return err
		}
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate}})
	}
	return (&http.Server{Handler: logged, ReadHeaderTimeout: 10 * time.Second}).Serve(listener)
}

// get prints what a URL answers, whoever signed its certificate.
func get(args []string) error {
	f := flags("get")
	header := f.String("H", "", "a header to send, NAME: VALUE")
	_ = f.Parse(args)
	request, err := http.NewRequest(http.MethodGet, f.Arg(0), nil)
	if err != nil {
		return err
	}
	if name, value, ok := strings.Cut(*header, ": "); ok {
		request.Header.Set(name, value)
	}
	client := &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(os.Stdout, response.Body); err != nil {
		return err
	}
	if response.StatusCode >= 400 {
		return errors.New(response.Status)
	}
	return nil
}

// describe is what was asked, a line for the request and one for each header.
func describe(r *http.Request) string {
	var lines []string
	for name, values := range r.Header {
		lines = append(lines, name+": "+strings.Join(values, ", "))
	}
	slices.Sort(lines)
	return fmt.Sprintf("%s %s\nHost: %s\n%s\n", r.Method, r.URL, r.Host, strings.Join(lines, "\n"))
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
