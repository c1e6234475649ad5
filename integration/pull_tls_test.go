package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// authority signs certificates that nobody else knows.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key, a.pem, _ = sign(t, nil, &x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// sign makes a key and a certificate for it, signed by a or by itself.
func sign(t *testing.T, a *authority, c *x509.Certificate) (cert *x509.Certificate, key *ecdsa.PrivateKey, certPEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	parent, signer := c, key
	if a != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

// tlsRegistry serves the registry at upstream as host, by TLS with a
// certificate of a, to those who have one of a too. It returns its address.
func tlsRegistry(t *testing.T, a *authority, host, upstream string) string {
	t.Helper()
	_, _, cert, key := sign(t, a, &x509.Certificate{DNSNames: []string{host}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	s := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: upstream}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it is refused on purpose
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// webProxy is what HTTP_PROXY names: it notes what it is asked for, and leads
// hosts that no name server knows to their places.
type webProxy struct {
	*httptest.Server
	hosts map[string]string

	mu    sync.Mutex
	asked []string
}

func newWebProxy(t *testing.T, hosts map[string]string) *webProxy {
	t.Helper()
	p := &webProxy{hosts: hosts}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asked = append(p.asked, r.Method+" "+r.URL.Host)
		p.mu.Unlock()
		to, ok := p.hosts[r.URL.Host]
		if r.Method != http.MethodConnect {
			httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: to}).ServeHTTP(w, r)
			return
		}
		server, err := net.Dial("tcp", to)
		if !ok || err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer func() { _ = server.Close() }()
		client, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = client.Close() }()
		_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			_, _ = io.Copy(server, client)
			_ = server.Close()
		}()
		_, _ = io.Copy(client, server)
	}))
	t.Cleanup(p.Close)
	return p
}

// saw tells whether the proxy was asked for something.
func (p *webProxy) saw(what string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.asked, what)
}

// put makes a file in the user's home with the directories on the way.
func (e *env) put(name, text string) {
	e.t.Helper()
	path := filepath.Join(e.home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		e.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		e.t.Fatal(err)
	}
}

// TestPullTLS: a registry with an authority of its own that wants a client
// certificate, as containers-certs.d(5) has them, and a proxy on the way.
func TestPullTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	web := newWebProxy(t, map[string]string{
		"secure.example:443": tlsRegistry(t, a, "secure.example", images.Address),
		"plain.example:5000": images.Address,
	})
	e := newEnv(t, "HTTPS_PROXY="+web.URL, "http_proxy="+web.URL, "NO_PROXY=direct.example,.inside")
	e.vars["PODRUN_REGISTRIES_CONF"] = filepath.Join(e.home, "registries.conf")
	e.put("registries.conf", "[[registry]]\nlocation = \"plain.example:5000\"\ninsecure = true\n")
	const name = "secure.example/library/busybox"
	const certs = ".config/containers/certs.d/secure.example/"

	mustContain(t, e.cannotPull(name), "certificate signed by unknown authority", certs+"ca.crt")
	e.put(certs+"ca.crt", "no certificate")
	mustContain(t, e.cannotPull(name), "ca.crt has no certificate")
	e.put(certs+"ca.crt", a.pem)
	mustContain(t, e.cannotPull(name), "certificate required", "client.cert")
	_, _, cert, key := sign(t, a, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	e.put(certs+"client.cert", cert)
	mustContain(t, e.cannotPull(name), "client.cert has no key", "client.key")
	e.put(certs+"client.key", key)
	mustContain(t, e.ok("pull", name), name+":latest")
	if err := os.Remove(filepath.Join(e.home, certs, "client.cert")); err != nil {
		t.Fatal(err)
	}
	mustContain(t, e.cannotPull(name), "client.key has no certificate", "client.cert")
	if !web.saw("CONNECT secure.example:443") {
		t.Errorf("the proxy was not asked for the secure registry: %v", web.asked)
	}

	e.ok("pull", "plain.example:5000/library/busybox")
	if !web.saw("GET plain.example:5000") {
		t.Errorf("the proxy was not asked for the plain registry: %v", web.asked)
	}
	for _, host := range []string{"direct.example", "any.inside"} {
		e.cannotPull(host + "/library/busybox")
		if web.saw("CONNECT " + host + ":443") {
			t.Errorf("the proxy was asked for %s in spite of NO_PROXY", host)
		}
	}
	table := e.ok("images")
	for _, want := range []string{"secure.example/library/busybox", "plain.example:5000/library/busybox"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %s in\n%s", want, table)
		}
	}
}
