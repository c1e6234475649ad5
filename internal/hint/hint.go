// Package hint attaches a mend to an error: what a person can do about it.
//
// Only the command line prints hints; every layer below returns them as data
// inside the error chain. It does not format, translate or log.
package hint

import "errors"

type hinted struct {
	err  error
	mend string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// Wrap returns err with a mend attached. The message of err is unchanged.
// A nil err gives nil; an empty mend gives err itself.
func Wrap(err error, mend string) error {
	if err == nil || mend == "" {
		return err
	}
	return &hinted{err: err, mend: mend}
}

// Of returns the outermost mend in err's chain, or "" when there is none.
func Of(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.mend
	}
	return ""
}
