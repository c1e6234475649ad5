package node

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"get.podrun.dev/podrun/internal/atomicfile"
	"get.podrun.dev/podrun/internal/hint"
)

// report is what a node says about its start: to the launcher that waits for
// it, or in a file for a later one.
type report struct {
	Error string `json:"error"` // "" from a node that serves
	Mend  string `json:"mend,omitempty"`
}

func (r report) err() error {
	if r.Error == "" {
		return nil
	}
	return hint.Wrap(errors.New(r.Error), r.Mend)
}

// reportFile holds the report of a node that could not serve and that no
// launcher waited for. A node that serves removes it.
func reportFile(state string) string { return filepath.Join(state, "node.failed") }

// connected is the process's connection to its reaper, for ReportStart.
var connected atomic.Pointer[Reaper]

// ReportStart tells whoever waits for this node that it serves, or with err
// why it cannot; in that case the caller exits with a code other than 0. From
// the first report that it serves the reaper restarts the node when it dies;
// a node that never served takes its reaper along. Calls after the first
// are about an end, not a start, and do nothing.
func ReportStart(err error) {
	in := takeInherited()
	if in == nil || !reported.CompareAndSwap(false, true) {
		return
	}
	var message report
	if err != nil {
		message = report{Error: err.Error(), Mend: hint.Of(err)}
	} else if r := connected.Load(); r != nil {
		r.ready()
	}
	b, jerr := json.Marshal(message)
	if jerr != nil {
		return // two strings
	}
	state := os.Getenv(stateVariable) // Launch has set it
	if err == nil {
		_ = os.Remove(reportFile(state))
	}
	switch {
	case in.report != nil:
		_, _ = in.report.Write(b) // the launcher went away: it did not want to know
		_ = in.report.Close()
	case err != nil:
		_ = atomicfile.Write(reportFile(state), b, 0o600) // the log has it, too
	}
}

var reported atomic.Bool

// readReport waits for the report of a reaper's first node. io.EOF says that
// the node died without one.
func readReport(launcher io.Reader) error {
	buf := make([]byte, 64<<10) // one packet
	n, err := launcher.Read(buf)
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(buf[:n], &r); err != nil {
		return err
	}
	return r.err()
}

// lastReport is why a node that was started again could not serve, nil if it
// left no word.
func lastReport(state string) error {
	b, err := os.ReadFile(reportFile(state))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		return err
	}
	return r.err()
}
