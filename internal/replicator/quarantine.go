package replicator

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// quarantined is a log that was set aside, as evidence.
type quarantined struct {
	path   string
	number int // of a directory that package log has named
	since  time.Time
}

// dropQuarantined removes all but the newest logs that were set aside, so that they do not fill the disk. What cannot be
// removed is no reason not to start.
func (h *home) dropQuarantined() {
	list := h.listQuarantined()
	if len(list) == 0 {
		return
	}
	keep := min(len(list), h.cfg.Keep.Quarantined)
	for _, q := range list[keep:] {
		err := os.RemoveAll(q.path)
		h.cfg.Logger.Warn("quarantined log removed", "group", h.cfg.Group, "node", h.cfg.Node, "quarantine", q.path,
			"since", q.since.UTC().Format(time.RFC3339), "kept", keep, "error", err)
	}
	paths := make([]string, 0, keep)
	for _, q := range list[:keep] {
		paths = append(paths, q.path)
	}
	h.cfg.Logger.Warn("quarantined logs kept", "group", h.cfg.Group, "node", h.cfg.Node, "quarantine", strings.Join(paths, " "),
		"kept", keep, "limit", h.cfg.Keep.Quarantined)
}

// listQuarantined returns the logs that were set aside, the newest first: those of earlier incarnations, and those that package
// log found damaged.
func (h *home) listQuarantined() []quarantined {
	var list []quarantined
	for _, place := range []struct{ dir, prefix string }{
		{filepath.Join(h.cfg.Dir, "quarantine"), "log-before-"}, {h.logDir(), "quarantine-"},
	} {
		entries, err := os.ReadDir(place.dir)
		if err != nil {
			continue // there is none
		}
		for i, entry := range entries {
			info, err := entry.Info()
			if err != nil || !entry.IsDir() || !strings.HasPrefix(entry.Name(), place.prefix) {
				continue
			}
			list = append(list, quarantined{path: filepath.Join(place.dir, entry.Name()), number: i, since: info.ModTime()})
		}
	}
	slices.SortStableFunc(list, func(a, b quarantined) int {
		return cmp.Or(b.since.Compare(a.since), cmp.Compare(b.number, a.number))
	})
	return list
}
