package sim

import (
	"errors"
	"fmt"
	"slices"

	"lockstep/internal/mutant"
	"lockstep/log"
	"lockstep/smr"
)

const labelHome log.Label = "replica directory"

// home is the open directory of a replica; see internal/replicator/home.go, which it follows.
type home struct {
	h     *host
	fs    log.FS
	state *log.StateFile
	saved log.State

	log    *log.Log
	report log.Report
	config smr.Config // of the newest epoch start in the log, zero if none
	renewd string     // why a new incarnation was taken, "" if none was
}

// errForeign: the directory belongs to another node.
var errForeign = errors.New("the directory belongs to another node")

// errStateless: somebody has taken the state away.
var errStateless = errors.New("there is a log but no state beside it")

func openHome(h *host) (*home, error) {
	m := &home{h: h, fs: h.disk}
	if err := m.fs.MkdirAll(labelHome, dirHome); err != nil {
		return nil, err
	}
	for _, step := range []func() error{m.openState, m.openLog, m.markStarted, m.readConfig} {
		if err := step(); err != nil {
			if m.log != nil {
				_ = m.log.Close() // the error that led here is the one that counts
			}
			return nil, err
		}
	}
	return m, nil
}

func (m *home) openState() error {
	if _, err := m.fs.List(labelHome, dirState); err != nil {
		if names, err := m.fs.List(labelHome, dirLog); err == nil && len(names) > 0 {
			return errStateless
		}
	}
	state, saved, found, err := log.OpenState(m.fs, dirState)
	m.state, m.saved = state, saved
	switch {
	case errors.Is(err, log.ErrCorrupt):
		return m.becomeNew("state damaged")
	case err != nil:
		return err
	case !found:
		return m.becomeNew("new directory")
	case saved.Cluster != m.h.w.cluster || saved.Group != groupName || saved.Node != m.h.id:
		return fmt.Errorf("%w: %s", errForeign, saved.Node)
	}
	return nil
}

func (m *home) becomeNew(why string) error {
	m.renewd = why
	return m.save(log.State{Incarnation: smr.Incarnation(m.h.w.name()), Cluster: m.h.w.cluster, Group: groupName, Node: m.h.id,
		LeaseHoldTicks: m.saved.LeaseHoldTicks})
}

func (m *home) save(st log.State) error {
	if err := m.state.Save(st); err != nil {
		return err
	}
	m.saved = st
	return nil
}

func (m *home) openLog() error {
	if err := m.recoverLog(); err != nil {
		return err
	}
	if damage := m.report.Damage; damage != nil && m.saved.LogBegun {
		return m.becomeNew("log damaged: " + damage.Reason)
	}
	switch {
	case m.saved.LogBegun && m.report.Files == 0 && !mutant.On(mutant.LostLogKept):
		return m.becomeNew("log gone")
	case m.saved.LogBegun && m.log.Start() > m.saved.LogStart:
		if err := m.becomeNew("oldest files gone"); err != nil {
			return err
		}
		return m.setAside()
	case !m.saved.LogBegun && m.log.End() > 0:
		return m.setAside()
	}
	return nil
}

func (m *home) setAside() error {
	if err := m.log.Close(); err != nil {
		return err
	}
	m.log = nil
	if err := m.fs.MkdirAll(labelHome, dirQuarantine); err != nil {
		return err
	}
	names, err := m.fs.List(labelHome, dirQuarantine)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("log-before-%016x", uint64(m.saved.Incarnation))
	for n := 2; slices.Contains(names, name); n++ {
		name = fmt.Sprintf("log-before-%016x-%d", uint64(m.saved.Incarnation), n)
	}
	if err := m.fs.Rename(labelHome, dirLog, dirQuarantine+"/"+name); err != nil {
		return err
	}
	for _, dir := range []string{dirQuarantine, dirHome} {
		if err := m.fs.SyncDir(labelHome, dir); err != nil {
			return err
		}
	}
	m.h.w.hit(probeSetAside)
	return m.recoverLog()
}

func (m *home) recoverLog() error {
	opened, report, err := log.Open(log.Options{Dir: dirLog, FS: m.fs, FileSize: m.h.w.o.FileSize, Cluster: m.h.w.cluster,
		Group: groupName, Synchronous: true})
	if err != nil {
		return err
	}
	m.log, m.report = opened, report
	return nil
}

func (m *home) markStarted() error {
	st := m.saved
	st.Clean = false
	if st == m.saved {
		return nil
	}
	return m.save(st)
}

// allowStart notes that the log may begin at lsn, before it does.
func (m *home) allowStart(lsn smr.LSN) error {
	if lsn <= m.saved.LogStart || mutant.On(mutant.LogStartUnsaved) {
		return nil
	}
	st := m.saved
	st.LogStart = lsn
	return m.save(st)
}

func (m *home) readConfig() error {
	history := m.log.History()
	if len(history) == 0 {
		return nil
	}
	reader, err := log.OpenReader(m.fs, dirLog)
	if err != nil {
		return err
	}
	defer reader.Close()
	enough := errors.New("enough")
	from := history[len(history)-1].From
	if from < m.log.Start() {
		return nil
	}
	_, _, err = reader.Frames(nil, from, m.log.End(), func(f smr.Frame, _ []byte) error {
		config, _, err := smr.DecodeConfig(f.Body)
		m.config = config
		return errors.Join(err, enough)
	})
	if !errors.Is(err, enough) {
		return err
	}
	return nil
}
