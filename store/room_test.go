package store_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"get.podrun.dev/podrun/internal/trap"
	"get.podrun.dev/podrun/store"
)

// TestRoomInterrupted: a signal while room is set aside, which tmpfs stops for,
// refuses nothing.
func TestRoomInterrupted(t *testing.T) {
	if dir := os.Getenv("STORE_ROOM_CHILD"); dir != "" {
		s := open(t, filepath.Join(dir, "store.db"), store.Options{})
		if _, err := s.Update(func(tx *store.Tx) error {
			tx.LeaveRoom()
			return tx.Put(pod("a"), text("a"))
		}); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Parallel()
	command := exec.Command(os.Args[0], "-test.run=^TestRoomInterrupted$")
	command.Env = append(os.Environ(), "STORE_ROOM_CHILD="+t.TempDir())
	command.Stdout = t.Output()
	asked := 0
	err := trap.Run(command, []int{unix.SYS_FALLOCATE}, func(trap.Call) (unix.Errno, error) {
		if asked++; asked == 1 {
			return unix.EINTR, nil
		}
		return 0, nil
	})
	if err != nil || asked != 2 {
		t.Errorf("%v; asked %d times, want 2", err, asked)
	}
}
