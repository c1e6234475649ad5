package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"get.podrun.dev/podrun/internal/hint"
	"get.podrun.dev/podrun/internal/untar"
)

// Errors that callers act on.
var (
	// ErrNotFound: no image of that name is here, or in the registry.
	ErrNotFound = errors.New("no such image")
	// ErrInUse: a container uses the image.
	ErrInUse = errors.New("image is in use")
	// ErrUnauthorized: the registry wants other credentials, or any.
	ErrUnauthorized = errors.New("unauthorized")
)

// RegistryError is an answer of a registry that is not the one hoped for.
type RegistryError struct {
	Registry string
	Status   int    // of HTTP
	Code     string // of the distribution specification, such as MANIFEST_UNKNOWN; may be ""
	Message  string
	Tries    int           // how often it answered so, one after the other; 0 is once
	After    time.Duration // what it asks to wait; 0 if it says nothing
}

// Error is a noun phrase for a caller's "cannot pull X: ...".
func (e *RegistryError) Error() string {
	return fmt.Sprintf("registry %s %s", e.Registry, e.answered())
}

func (e *RegistryError) answered() string {
	s := fmt.Sprintf("answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Code != "" {
		s += " (" + e.Code
		if e.Message != "" {
			s += ": " + e.Message
		}
		s += ")"
	}
	if e.Tries > 1 {
		s += fmt.Sprintf(", %d times", e.Tries)
	}
	if e.After > maxRetryAfter {
		s += fmt.Sprintf(", and asks to come again in %v", e.After)
	}
	return s
}

// Is matches ErrNotFound and ErrUnauthorized.
func (e *RegistryError) Is(target error) bool {
	switch target {
	case ErrUnauthorized:
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
	case ErrNotFound:
		return e.Status == http.StatusNotFound
	}
	return false
}

// absentError is the answer of a registry that has no such image.
type absentError struct{ *RegistryError }

func (e *absentError) Error() string {
	return fmt.Sprintf("%v in registry %s, which %s", ErrNotFound, e.Registry, e.answered())
}

func (e *absentError) Unwrap() error { return e.RegistryError }

// refusedError is about a registry that does not run, or on another port.
type refusedError struct{ registry string }

func (e *refusedError) Error() string {
	return fmt.Sprintf("registry %s refused the connection", e.registry)
}

func (e *refusedError) Unwrap() error { return syscall.ECONNREFUSED }

// explain gives an error of the wire its type, its words and its mend.
func explain(err error, at endpoint) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if e := answerIn(err); e != nil {
		e.Registry = at.registry
		switch {
		case e.Status == http.StatusTooManyRequests:
			return hint.Wrap(e, "its limit on pulls is reached: log in to have a higher one, or wait")
		case errors.Is(e, ErrUnauthorized):
			return hint.Wrap(e, fmt.Sprintf(`if the image is private, log in with "podrun login %s"; if not, check its name`, at.registry))
		case errors.Is(e, ErrNotFound):
			return hint.Wrap(&absentError{e}, "check the name and the tag")
		}
		return e
	}
	var dns *net.DNSError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.Is(err, errDistrusted):
		return fmt.Errorf("registry %s: %w", at.registry, err)
	case errors.As(err, &certificate):
		return hint.Wrap(fmt.Errorf("registry %s: %w", at.registry, certificate), fmt.Sprintf("put its authority's certificate into ~/.config/containers/certs.d/%s/ca.crt", at.registry))
	case isAlert(err):
		return hint.Wrap(fmt.Errorf("registry %s: %w", at.registry, redacted(err)), fmt.Sprintf("if it wants a client certificate, put client.cert and client.key into ~/.config/containers/certs.d/%s", at.registry))
	case errors.As(err, &dns):
		return hint.Wrap(fmt.Errorf("registry %s: %w", at.registry, err), "check the registry's name and this machine's network")
	case errors.Is(err, http.ErrSchemeMismatch):
		return hint.Wrap(fmt.Errorf("registry %s speaks HTTP, not HTTPS: %w", at.registry, redacted(err)), fmt.Sprintf("to use it so, put a file into ~/.config/containers/registries.conf.d with these lines: [[registry]], location = %q, insecure = true", at.registry))
	case errors.Is(err, syscall.ECONNREFUSED):
		return hint.Wrap(&refusedError{at.registry}, "check that the registry is up and its port")
	}
	return fmt.Errorf("registry %s: %w", at.registry, redacted(err))
}

// explainDisk gives an error of unpacking its words and its mend, unless it has
// them.
func explainDisk(err error) error {
	switch {
	case hint.Of(err) != "":
	case errors.Is(err, untar.ErrLimit):
		return hint.Wrap(err, fmt.Sprintf("if the image is to be trusted, set %s or %s higher when the node starts", layerVariable, filesVariable))
	case errors.Is(err, syscall.ENOSPC):
		return hint.Wrap(fmt.Errorf("no space left on the disk: %w", err), `remove images with "podrun rmi", or set PODRUN_DATA to a larger disk`)
	case errors.Is(err, syscall.EDQUOT):
		return hint.Wrap(fmt.Errorf("disk quota reached: %w", err), `remove images with "podrun rmi", or set PODRUN_DATA to another disk`)
	}
	return err
}

// Unanswered tells whether a pull failed because nobody said yes or no: the
// registry cannot be reached, or has trouble of its own.
func Unanswered(err error) bool {
	if e := answerIn(err); e != nil {
		return troubled(e.Status)
	}
	var certificate *tls.CertificateVerificationError
	var stalled *stalledError
	var of net.Error // refused, cut, a name that nobody resolves, a deadline
	// What speaks HTTP there is not the registry, which speaks HTTPS.
	if errors.Is(err, http.ErrSchemeMismatch) {
		return true
	}
	return !errors.As(err, &certificate) && !isAlert(err) && local(err) == nil &&
		(errors.As(err, &of) || errors.As(err, &stalled) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF))
}

// answerIn is the registry's answer that err comes of, or nil.
func answerIn(err error) *RegistryError {
	var own *RegistryError
	if errors.As(err, &own) {
		copied := *own
		return &copied
	}
	var answer *transport.Error
	if !errors.As(err, &answer) {
		return nil
	}
	e := &RegistryError{Status: answer.StatusCode}
	if len(answer.Errors) > 0 {
		e.Code, e.Message = string(answer.Errors[0].Code), answer.Errors[0].Message
	}
	return e
}

// redacted drops the address from an error of net/http: the place a registry
// redirects to may have a secret in it.
func redacted(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}

// local is the error of a file here that err comes of, or nil: what reads a body
// says more around it, and to errors.As every errno is a net.Error.
func local(err error) error {
	var damaged *damagedError
	var file *fs.PathError
	switch {
	case errors.As(err, &damaged):
		return damaged
	case errors.As(err, &file):
		return file
	case errors.Is(err, errNoBlob):
		return errNoBlob
	}
	return nil
}

// diskError tells whether the disk is full, or the user's part of it.
func diskError(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
