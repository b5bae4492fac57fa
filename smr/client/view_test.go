package client

import (
	"testing"

	"lockstep/smr"
)

// A replicator that was attached again may have another log (it lost its own and is being refilled). What could go wrong:
// bytes of it are executed because those at the same place of the old one were safe.
func TestSafeOfAnotherLogDoesNotCount(t *testing.T) {
	var v view
	v.init()
	v.attach("a")
	v.show(smr.Status{Role: smr.RoleSlave, Safe: 100, Master: "n1", MasterAddr: "h:1"})
	v.detach()
	v.attach("b")
	if status, where := v.load(); status.Safe != 0 || where.logDir != "b" || status.Master != "n1" {
		t.Errorf("%+v in %+v", status, where)
	}
}
