package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// GRPC asks the health service of the gRPC server at address for service, ""
// for the server as a whole (https://github.com/grpc/grpc/blob/master/doc/health-checking.md).
//
// It is one HTTP/2 request over a connection without TLS, of two messages with
// one field each, so that package net/http does it and no gRPC library is
// linked: docs/decisions/0003-grpc-probes-by-hand.md.
func GRPC(ctx context.Context, dial Dial, address, service string, timeout time.Duration) Outcome {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	connections := newConnections(ctx, dial)
	defer connections.close()
	transport := &http.Transport{Protocols: new(http.Protocols), DialContext: connections.connect}
	transport.Protocols.SetUnencryptedHTTP2(true)

	status, err := check(ctx, transport, address, service, timeout)
	late := ctx.Err() != nil || errors.Is(err, context.DeadlineExceeded)
	var rpc *rpcError
	switch {
	case err == nil && status == statusServing:
		return Outcome{Success, "service healthy"}
	case err == nil:
		return failure(fmt.Sprintf("service unhealthy (responded with %q)", statusName(status)))
	case errors.As(err, &rpc) && rpc.code == codeUnimplemented:
		return failure("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " + rpc.message)
	case rpc != nil && rpc.code != codeDeadlineExceeded:
		return failure("error: health rpc probe failed: " + rpc.Error())
	case rpc != nil || late && connections.connected():
		return failure(fmt.Sprintf("timeout: health rpc did not complete within %v", timeout))
	case late:
		return failure(fmt.Sprintf("timeout: failed to connect service %q within %v: %v", address, timeout, context.DeadlineExceeded))
	case !connections.connected():
		return failure(fmt.Sprintf("error: failed to connect service at %q: %v", address, err))
	}
	return failure("error: health rpc probe failed: " + err.Error())
}

// check makes the call and returns the server's answer, or an *rpcError if the
// call was refused.
func check(ctx context.Context, transport *http.Transport, address, service string, timeout time.Duration) (servingStatus, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/grpc.health.v1.Health/Check", bytes.NewReader(healthRequest(service)))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	req.Header.Set("User-Agent", "podrun-probe/"+version)
	req.Header.Set("Grpc-Timeout", strconv.FormatInt(timeout.Milliseconds(), 10)+"m")
	res, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("unexpected HTTP status code received from server: %d (%s)", res.StatusCode, http.StatusText(res.StatusCode))
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, MaxOutput))
	if err != nil {
		return 0, err
	}
	// The status of the call follows the body, or stands in its place.
	end := res.Trailer
	if end.Get("Grpc-Status") == "" {
		end = res.Header
	}
	switch code, err := strconv.Atoi(end.Get("Grpc-Status")); {
	case err != nil:
		return 0, errors.New("the server does not speak gRPC: it sent no grpc-status")
	case code != 0:
		message, err := url.PathUnescape(end.Get("Grpc-Message"))
		if err != nil {
			message = end.Get("Grpc-Message")
		}
		return 0, &rpcError{rpcCode(code), message}
	}
	return healthResponse(body)
}
