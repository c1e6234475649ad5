package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Request makes the request of an httpGet action to port of host, or of the
// action's own host. purpose becomes part of the user agent: "probe" or
// "lifecycle".
func Request(ctx context.Context, action *corev1.HTTPGetAction, host string, port int, purpose string) (*http.Request, error) {
	if action.Host != "" {
		host = action.Host
	}
	u, err := url.Parse(action.Path)
	if err != nil {
		u = &url.URL{Path: action.Path}
	}
	u.Scheme = strings.ToLower(string(action.Scheme))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	u.Host = net.JoinHostPort(host, strconv.Itoa(port))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "podrun-"+purpose+"/"+version)
	req.Header.Set("Accept", "*/*")
	own := http.Header{}
	for _, h := range action.HTTPHeaders {
		own.Add(h.Name, h.Value)
	}
	for name, values := range own {
		if name == "Host" {
			req.Host = values[0]
		}
		req.Header[name] = values
	}
	if req.Header.Get("Accept") == "" {
		req.Header.Del("Accept") // an empty one in the manifest asks for none
	}
	return req, nil
}

// HTTP sends req. An answer of 200 to 399 is a success; one that redirects to
// another host is not followed and is a success with a warning.
func HTTP(dial Dial, req *http.Request, timeout time.Duration) Outcome {
	connections := newConnections(req.Context(), dial)
	defer connections.close()
	client := &http.Client{Transport: newTransport(connections), Timeout: timeout, CheckRedirect: sameHost}
	res, err := client.Do(req)
	if err != nil {
		return failure(err.Error())
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, MaxOutput))
	switch {
	case err != nil:
		return failure(err.Error())
	case res.StatusCode < 200 || res.StatusCode >= 400:
		// Not the body: whoever may read events need not see what it says.
		return failure(fmt.Sprintf("HTTP probe failed with statuscode: %d", res.StatusCode))
	case res.StatusCode >= 300:
		return Outcome{Warning, "Probe terminated redirects, Response body: " + string(body)}
	}
	return Outcome{Success, string(body)}
}

// Hook sends the request of a lifecycle hook; any answer will do. An HTTPS
// request that is answered in HTTP is sent again as one, without credentials,
// and fellBack tells so: hooks ignored the scheme before Kubernetes 1.23.
func Hook(dial Dial, req *http.Request) (fellBack bool, err error) {
	connections := newConnections(req.Context(), dial)
	defer connections.close()
	client := &http.Client{Transport: newTransport(connections), CheckRedirect: sameHost}
	send := func(req *http.Request) error {
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, MaxOutput))
		return res.Body.Close()
	}
	err = send(req)
	if !errors.Is(err, http.ErrSchemeMismatch) {
		return false, err
	}
	plain := req.Clone(req.Context())
	plain.URL.Scheme = "http"
	plain.Header.Del("Authorization")
	if send(plain) != nil {
		return false, err
	}
	return true, nil
}

// newTransport returns a transport that uses a connection once, no proxy, and
// asks no certificate to be anybody's in particular: it goes to an address.
func newTransport(c *connections) *http.Transport {
	return &http.Transport{
		DialContext:        c.connect,
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as the kubelet
		ForceAttemptHTTP2:  true,
		DisableKeepAlives:  true,
		DisableCompression: true,
	}
}

// sameHost follows redirects as long as they stay with the host that was asked.
func sameHost(req *http.Request, via []*http.Request) error {
	if req.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}
