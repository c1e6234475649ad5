package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// A forwarded connection is made by the node, from inside the pod, and handed
// to the client as a descriptor. The bytes never pass through the node: it may
// die without cutting a connection.
//
//	client                                     node
//	POST .../portforward + a socket's end --->  connect in the pod's namespace
//	other end <-- the connected descriptor ---
//	         <-- 200 ------------------------

// DialPod connects to a port of a pod from inside the pod.
func (c *Client) DialPod(ctx context.Context, namespace, name string, port uint16) (*net.TCPConn, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = ours.Close() }()
	q := url.Values{"port": {strconv.Itoa(int(port))}}
	body, err := c.send(ctx, http.MethodPost, podrunPath(namespace, name, "portforward"), q, nil, theirs)
	_ = theirs.Close()
	if err == nil {
		err = body.decode(nil)
	}
	if err != nil {
		return nil, err
	}
	return receiveConn(ours)
}

// receiveConn receives a connection from sock.
func receiveConn(sock *os.File) (*net.TCPConn, error) {
	c, err := net.FileConn(sock)
	if err != nil {
		return nil, err
	}
	from := &peer{UnixConn: c.(*net.UnixConn)}
	defer func() { _ = from.Close() }()
	// Only a descriptor comes, then the end.
	if _, err := from.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	files := from.takeFiles()
	defer closeFiles(files...)
	if len(files) != 1 {
		return nil, fmt.Errorf("answer of the node: %d connections in place of one", len(files))
	}
	conn, err := net.FileConn(files[0])
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("answer of the node: a %T", conn), conn.Close())
	}
	return tcp, nil
}

func (a *api) portForward(w http.ResponseWriter, r *http.Request) error {
	files := ConnFiles(r.Context())
	defer closeFiles(files...)
	if len(files) != 1 {
		return apierrors.NewBadRequest(fmt.Sprintf("port-forward needs a socket beside the request, got %d descriptors", len(files)))
	}
	port, err := strconv.ParseUint(r.URL.Query().Get("port"), 10, 16)
	if err != nil || port == 0 {
		return apierrors.NewBadRequest(fmt.Sprintf("port: %q is not a port", r.URL.Query().Get("port")))
	}
	back, err := net.FileConn(files[0])
	if err != nil {
		return apierrors.NewBadRequest("port-forward: " + err.Error())
	}
	defer func() { _ = back.Close() }()
	to, ok := back.(*net.UnixConn)
	if !ok {
		return apierrors.NewBadRequest("port-forward needs a unix socket beside the request")
	}
	ctx, cancel := a.during(r)
	defer cancel()
	conn, err := a.supervisor.DialPod(ctx, r.PathValue("namespace"), r.PathValue("name"), uint16(port))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	f, err := conn.File()
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := SendFiles(to, f); err != nil {
		return err
	}
	// The client reads to the end.
	_ = to.CloseWrite()
	respond(w, http.StatusOK, struct{}{})
	return nil
}

// socketPair returns the two ends of a unix socket.
func socketPair() (a, b *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(pair[1]), "socket"), nil
}
