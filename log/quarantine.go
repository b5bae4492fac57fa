package log

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"lockstep/smr"
)

const (
	damageName       = "damage"
	quarantinePrefix = "quarantine-"
	damageReportName = "report.txt"
	maxDamageReport  = 4 << 10
)

// quarantine gives the files up. Its steps survive a crash between any two: the damage report is durable before the
// first file moves, and it stays until the caller appends, which it may only do as a new incarnation. Without that, a
// crash could leave some of the files, which might look like a good log.
func (l *Log) quarantine(bad *damageError) (Report, error) {
	names, err := l.fs.List(LabelList, l.options.Dir)
	if err != nil {
		return Report{}, err
	}
	target := quarantinePrefix + fmt.Sprint(nextQuarantine(names))
	text := fmt.Sprintf("%s\n%s\n%d\n%s\n", target, bad.file, uint64(bad.lsn), bad.reason)
	if len(text) > maxDamageReport {
		text = text[:maxDamageReport]
	}
	err = withReserve(l.fs, l.options.Dir, func() error { return l.writeDamage(text) })
	if err != nil {
		return Report{}, fmt.Errorf("%w; this was found: %w", err, bad)
	}
	return l.finishQuarantine(names)
}

// writeDamage writes the damage report under another name first: it is there as a whole or not at all.
func (l *Log) writeDamage(text string) error {
	draft := l.path(damageName + ".new")
	if err := l.fs.Remove(LabelDamage, draft); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := l.fs.Create(LabelDamage, draft)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.WriteAt(LabelDamage, []byte(text), 0); err != nil {
		return err
	}
	if err := file.Sync(LabelDamage); err != nil {
		return err
	}
	if err := l.fs.Rename(LabelDamage, draft, l.path(damageName)); err != nil {
		return err
	}
	return l.fs.SyncDir(LabelDamage, l.options.Dir)
}

// finishQuarantine moves what is left to move and reports the damage.
func (l *Log) finishQuarantine(names []string) (Report, error) {
	text, err := l.readDamage()
	if err != nil {
		return Report{}, err
	}
	found := parseDamage(text)
	target := filepath.Base(found.Quarantine)
	if !strings.HasPrefix(target, quarantinePrefix) {
		// The report itself is damaged. What it stands for is not in doubt.
		target = quarantinePrefix + fmt.Sprint(nextQuarantine(names))
	}
	found.Quarantine = l.path(target)
	if err := l.moveAll(names, found.Quarantine, text); err != nil {
		return Report{}, fmt.Errorf("quarantine: %w; this was found: %s", err, found.Reason)
	}
	if err := removeLeftovers(l.fs, l.options.Dir, names); err != nil {
		return Report{}, err
	}
	l.damaged = true
	return Report{Damage: found}, nil
}

func (l *Log) moveAll(names []string, target, text string) error {
	if err := l.fs.MkdirAll(LabelQuarantine, target); err != nil {
		return err
	}
	if err := l.writeCopy(filepath.Join(target, damageReportName), text); err != nil {
		return err
	}
	for _, name := range names {
		if _, ok := parseFileName(name); !ok && name != beginName {
			continue
		}
		if err := l.fs.Rename(LabelQuarantine, l.path(name), filepath.Join(target, name)); err != nil {
			return err
		}
	}
	if err := l.fs.SyncDir(LabelQuarantine, target); err != nil {
		return err
	}
	return l.fs.SyncDir(LabelQuarantine, l.options.Dir)
}

// writeCopy keeps the report beside the files for people. A full device is no reason to fail for it.
func (l *Log) writeCopy(name, text string) error {
	file, err := l.fs.Create(LabelQuarantine, name)
	if errors.Is(err, fs.ErrExist) || isFull(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	err = file.WriteAt(LabelQuarantine, []byte(text), 0)
	if err == nil {
		err = file.Sync(LabelQuarantine)
	}
	if isFull(err) {
		return nil
	}
	return err
}

func (l *Log) readDamage() (string, error) {
	file, err := l.fs.OpenRead(LabelDamage, l.path(damageName))
	if err != nil {
		return "", err
	}
	defer file.Close()
	size, err := file.Size(LabelDamage)
	if err != nil {
		return "", err
	}
	text := make([]byte, min(size, maxDamageReport))
	if len(text) == 0 {
		return "", nil
	}
	_, err = file.ReadAt(LabelDamage, text, 0)
	return string(text), err
}

func parseDamage(text string) *Damage {
	lines := strings.SplitN(text, "\n", 4)
	if len(lines) < 4 {
		return &Damage{Reason: "the damage report does not check: " + fmt.Sprintf("%q", text)}
	}
	d := &Damage{Quarantine: lines[0], File: lines[1], Reason: strings.TrimSpace(lines[3])}
	if _, err := fmt.Sscan(lines[2], (*uint64)(&d.LSN)); err != nil {
		d.LSN = smr.LSN(0)
	}
	return d
}

func nextQuarantine(names []string) int {
	next := 1
	for _, name := range names {
		var n int
		if _, err := fmt.Sscanf(name, quarantinePrefix+"%d", &n); err == nil && n >= next {
			next = n + 1
		}
	}
	return next
}

// clearDamage forgets the damage report: the caller appends, so it has taken a new incarnation.
func (l *Log) clearDamage() error {
	if !l.damaged {
		return nil
	}
	if err := l.fs.Remove(LabelDamage, l.path(damageName)); err != nil {
		return err
	}
	if err := l.fs.SyncDir(LabelDamage, l.options.Dir); err != nil {
		return err
	}
	l.damaged = false
	return nil
}
