package ctl

import (
	"os"
	"os/user"
	"testing"
)

// What could go wrong: a drill on a cluster from `smrctl up` passes, and what it has started again ends with the service of systemd, or belongs to root
// in a cluster of somebody else. Seen under systemd 252: one replica was down after each drill that had passed.
func TestScheduledDrillLeavesWhatItStarted(t *testing.T) {
	dir, owner := t.TempDir(), "54321" // an account without a name
	if os.Getuid() == 0 {
		if err := os.Chown(dir, 54321, -1); err != nil {
			t.Fatal(err)
		}
	} else {
		self, err := user.Current()
		if err != nil {
			t.Fatal(err)
		}
		owner = self.Username
	}
	got, err := unitOfLocal(dir)
	if want := "User=" + owner + "\nKillMode=process\n"; err != nil || got != want {
		t.Errorf("the unit says %q (%v), want %q", got, err, want)
	}
}
