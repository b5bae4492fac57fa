package replicator

import (
	"path/filepath"

	"lockstep/smr/page"
	"lockstep/smr/replica"
)

// openPage makes the page that is shared with the KV node. Without one, its reads ask this replicator; that is slower and as right.
func (l *loop) openPage() {
	cfg := l.node.cfg
	path, err := filepath.Abs(filepath.Join(cfg.Dir, "page"))
	if err == nil {
		l.page, err = page.Create(path)
	}
	if err != nil {
		cfg.Logger.Warn("no page for the KV node: its reads ask the replicator", "group", cfg.Group, "node", cfg.Node, "error", err)
		return
	}
	l.pagePath = path
}

// closePage takes the lease away from who has the page mapped.
func (l *loop) closePage() {
	if l.page != nil {
		_ = l.page.Close() // the process ends
	}
}

// readClocks sets what the next ticks show.
func (l *loop) readClocks() {
	clocks := page.Now()
	if l.page != nil {
		l.page.Tick(clocks)
	}
	l.tick = replica.Tick{Stamp: l.node.cfg.drills.Now().UnixMilli(), Clock: clocks.Boot}
}
