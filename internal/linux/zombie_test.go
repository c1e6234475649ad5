package linux_test

import (
	"os/exec"
	"testing"
	"time"

	"get.podrun.dev/podrun/internal/linux"
)

func TestZombieStatus(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "sleep 0.1; exit 7")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	pid := cmd.Process.Pid
	start, err := linux.ProcessStartTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := linux.ZombieStatus(pid, start); ok {
		t.Error("a running process has a wait status")
	}
	for range 100 {
		if status, ok := linux.ZombieStatus(pid, start); ok {
			if status.ExitStatus() != 7 {
				t.Errorf("exit status %d, want 7", status.ExitStatus())
			}
			if _, ok := linux.ZombieStatus(pid, start+1); ok {
				t.Error("another process of that pid has a wait status")
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the exited process has no wait status")
}
