// Package vm starts a virtual machine with what CI's own machine has not:
// systemd, cgroup v2 alone, and a user who logs in. Its tests run podrun there;
// see ../README.md and scripts/vm.sh, which gives them an image and what is to
// be in it.
//
// The machine is qemu's: on the processor itself where KVM works, and else
// emulated, where all takes ten to fifty times as long. Whatever happens in it
// leaves the image as it was.
package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Who can log in.
const (
	User = "vagrant" // an ordinary user, who may use sudo
	Root = "root"
)

// kernelArguments have the machine look like one that was installed, less what
// makes an emulated one slow.
const kernelArguments = "root=LABEL=podrun-root ro console=ttyS0 net.ifnames=0 quiet loglevel=3 mitigations=off audit=0 nowatchdog tsc=reliable no_timer_check"

// Machine is one that was started. It is not safe for concurrent use, but for
// the commands that Command returns.
type Machine struct {
	dir   string // for the console's log and the ways to log in
	image string
	port  int // on the host's loopback, leads to the machine's ssh
	qemu  *exec.Cmd
	ended chan struct{}
}

// Start starts a machine from a directory that scripts/vm-image.sh has made.
// payload is a file that it has as its second disk, to be read only; a tar
// archive is as good as any. dir, which must have a short name, is for files of
// the machine's; the caller removes it after Stop. The machine ends with the
// thread that called Start, too.
func Start(dir, image, payload string) (*Machine, error) {
	m := &Machine{dir: dir, image: image}
	accelerator := []string{"-accel", "tcg,thread=multi", "-cpu", "max"}
	if kvmWorks(image) {
		accelerator = []string{"-accel", "kvm", "-cpu", "host"}
	}
	// Nobody can reserve a port for another process.
	for attempt := 0; ; attempt++ {
		m.port = 20000 + rand.IntN(10000)
		err := m.start(accelerator, payload)
		if err == nil || attempt == 5 || !strings.Contains(err.Error(), "host forwarding rule") {
			return m, err
		}
	}
}

func (m *Machine) start(accelerator []string, payload string) error {
	var errs bytes.Buffer
	m.qemu = exec.Command("qemu-system-x86_64", append(accelerator,
		"-smp", "2", "-m", "2048", "-display", "none", "-monitor", "none", "-serial", "file:"+m.console(),
		"-kernel", filepath.Join(m.image, "vmlinuz"), "-initrd", filepath.Join(m.image, "initrd"), "-append", kernelArguments,
		"-drive", "file="+filepath.Join(m.image, "disk.raw")+",format=raw,if=virtio,snapshot=on,cache=unsafe",
		"-drive", "file="+payload+",format=raw,if=virtio,readonly=on",
		"-netdev", fmt.Sprintf("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:%d-:22", m.port),
		"-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci")...)
	m.qemu.Stderr = &errs
	m.qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.qemu.Start(); err != nil {
		return err
	}
	m.ended = make(chan struct{})
	go func() {
		_ = m.qemu.Wait()
		close(m.ended)
	}()
	// What it does not like, it says at once; it makes the log after that.
	for {
		if _, err := os.Stat(m.console()); err == nil {
			return nil
		}
		select {
		case <-m.ended:
			return fmt.Errorf("qemu: %s", strings.TrimSpace(errs.String()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (m *Machine) console() string { return filepath.Join(m.dir, "console") }

// Console is the end of what the machine has said on its console.
func (m *Machine) Console() string {
	b, err := os.ReadFile(m.console())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// Stop ends the machine as if its power were cut. It may be called again.
func (m *Machine) Stop() {
	_ = m.qemu.Process.Kill()
	<-m.ended
}

// Command is a shell command in the machine, in a login session of a user's:
// one for all commands until the next boot. It gets the command's input and
// output, and ends with its exit code.
func (m *Machine) Command(ctx context.Context, user, script string) *exec.Cmd {
	return exec.CommandContext(ctx, "ssh", append(m.ssh(user), script)...)
}

func (m *Machine) ssh(user string) []string {
	arguments := []string{"-F", "/dev/null", "-p", strconv.Itoa(m.port), "-i", filepath.Join(m.image, "key")}
	for _, o := range []string{
		"IdentitiesOnly=yes", "BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=30",
		"ControlMaster=auto", "ControlPersist=yes", "ControlPath=" + filepath.Join(m.dir, user),
	} {
		arguments = append(arguments, "-o", o)
	}
	return append(arguments, user+"@127.0.0.1")
}

// Await returns when one can log in, after a start or a reboot, and what the
// kernel calls this boot.
func (m *Machine) Await(ctx context.Context) (boot string, err error) {
	for {
		// Until its sshd listens, qemu ends the connection at once.
		out, err := m.Command(ctx, Root, "cat /proc/sys/kernel/random/boot_id").Output()
		if err == nil {
			return strings.TrimSpace(string(out)), nil
		}
		select {
		case <-m.ended:
			return "", errors.New("the machine has ended")
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
}

// Reboot has the machine reboot as an administrator would, and returns when one
// can log in again.
func (m *Machine) Reboot(ctx context.Context) error {
	before, err := m.Await(ctx)
	if err != nil {
		return err
	}
	// The answer may not come through.
	_ = m.Command(ctx, Root, "systemctl reboot").Run()
	m.HangUp()
	for {
		boot, err := m.Await(ctx)
		if err != nil {
			return err
		}
		if boot != before {
			return nil
		}
		// It has not gone down yet.
		m.HangUp()
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// HangUp ends all login sessions.
func (m *Machine) HangUp() {
	for _, user := range []string{User, Root} {
		if _, err := os.Stat(filepath.Join(m.dir, user)); err == nil {
			_ = exec.Command("ssh", append([]string{"-O", "exit"}, m.ssh(user)...)...).Run()
		}
	}
}

// kvmWorks tells whether the image's kernel gets to its first program on KVM:
// /dev/kvm alone is no proof where this machine is a virtual one itself.
func kvmWorks(image string) bool {
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	_ = kvm.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "kvm", "-cpu", "host", "-m", "512", "-no-reboot",
		"-display", "none", "-monitor", "none", "-serial", "stdio",
		"-kernel", filepath.Join(image, "vmlinuz"), "-initrd", filepath.Join(image, "initrd"),
		// Its first program ends at once, and with it the machine.
		"-append", "console=ttyS0 panic=-1 rdinit=/bin/true").Output()
	return bytes.Contains(out, []byte("Attempted to kill init! exitcode=0x00000000"))
}
