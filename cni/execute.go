package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"
)

const (
	// maxAnswer bounds what a plugin may print.
	maxAnswer = 1 << 20
	// maxExcerpt bounds what an error repeats of it.
	maxExcerpt = 200
	// pipeDelay is how long what a plugin left running may hold its output open.
	pipeDelay = 500 * time.Millisecond
)

// foreign is libcni's way to the plugins that are programs. They run in the pod
// network, where their bridges and links belong: rootless, they may change
// nothing elsewhere.
type foreign struct {
	n *Network
	version.PluginDecoder
}

// FindInPath says where a plugin is.
func (f *foreign) FindInPath(plugin string, paths []string) (string, error) {
	path, err := invoke.FindInPath(plugin, paths)
	if err != nil {
		return "", fmt.Errorf("plugin %q is not in %s", plugin, strings.Join(paths, ", "))
	}
	return path, nil
}

// ExecPlugin runs a plugin and returns what it answers. Whatever the plugin
// does, nothing of it runs when ExecPlugin has returned, nor when this process
// has ended.
func (f *foreign) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	stdout, stderr := &bounded{}, &bounded{}
	err := f.n.pods.Do(func(ns.NetNS) error {
		cmd := exec.CommandContext(ctx, path)
		cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, bytes.NewReader(stdin), stdout, stderr
		// This thread is locked until the plugin has ended: the signal follows it.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
		cmd.WaitDelay = pipeDelay
		err := cmd.Run()
		if cmd.Process != nil {
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // what it left running
		}
		return err
	})
	name := filepath.Base(path)
	switch {
	case stdout.over || stderr.over:
		return nil, fmt.Errorf("%s printed more than %d bytes", name, maxAnswer)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s did not end in time and was killed", name)
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return stdout.data.Bytes(), nil
	}
	var said types.Error
	if json.Unmarshal(stdout.data.Bytes(), &said) == nil && said.Msg != "" {
		// The type tells libcni the plugin's code.
		said.Msg = fmt.Sprintf("%s: %s", name, said.Msg)
		return nil, &said
	}
	printed := strings.TrimSpace(stderr.data.String())
	if printed == "" {
		printed = strings.TrimSpace(stdout.data.String())
	}
	return nil, fmt.Errorf("%s: %w%s", name, err, excerpt(printed))
}

// excerpt is the beginning of what a plugin printed, to follow a message.
func excerpt(text string) string {
	if len(text) > maxExcerpt {
		text = text[:maxExcerpt] + "..."
	}
	if text == "" {
		return ""
	}
	return fmt.Sprintf(": %q", text)
}

// bounded keeps what is written to it, up to maxAnswer bytes. Then it is an
// error, at which the plugin gets a broken pipe. The buffer is no embedded one:
// io.Copy would fill it by its ReadFrom.
type bounded struct {
	data bytes.Buffer
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.data.Len()+len(p) > maxAnswer {
		b.over = true
		return 0, errors.New("too much")
	}
	return b.data.Write(p)
}
