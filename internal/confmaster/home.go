package confmaster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"lockstep/internal/filelock"
)

// identityVersion of the identity file. A later one is refused.
const identityVersion = 1

// identity says to whom a directory belongs. It is written once, before anything else.
type identity struct {
	Version int    `json:"version"`
	Cluster string `json:"cluster"`
	ID      uint64 `json:"id"`
	Peers   int    `json:"peers"` // how many configuration masters there are: the voter set is fixed
}

// home is the directory of a configuration master, locked for this process.
type home struct {
	dir  string
	lock *filelock.Lock
}

// openHome locks the directory and checks, or writes, its identity.
func openHome(c *Config) (*home, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create directory: %w", err)
	}
	lock, err := filelock.Take(filepath.Join(c.Dir, "lock"))
	switch {
	case errors.Is(err, filelock.ErrHeld):
		return nil, fmt.Errorf("directory %s is in use by another process: stop it, or give another --dir", c.Dir)
	case err != nil:
		return nil, fmt.Errorf("lock directory %s: %w", c.Dir, err)
	}
	h := &home{dir: c.Dir, lock: lock}
	if err := h.identify(identity{Version: identityVersion, Cluster: c.Cluster, ID: c.ID, Peers: len(c.Peers)}, c.New); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

// identify checks the identity of the directory. Only a fresh one may have none.
func (h *home) identify(want identity, fresh bool) error {
	path := filepath.Join(h.dir, "identity.json")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && fresh {
		return h.begin(path, want)
	}
	if errors.Is(err, fs.ErrNotExist) {
		// One that has forgotten its votes and what it has acknowledged must not count as a voter: an epoch could be given
		// out twice (S1).
		return fmt.Errorf("directory %s holds no configuration master: if the cluster is being founded, add --new; if the directory was lost, see \"A lost configuration master\" in docs/operations.md", h.dir)
	}
	if err != nil {
		return fmt.Errorf("read identity: %w", err)
	}
	var got identity
	if err := json.Unmarshal(text, &got); err != nil {
		return fmt.Errorf("%s is no identity of a configuration master: %w", path, err)
	}
	switch {
	case got.Version < 1:
		return fmt.Errorf("%s is no identity of a configuration master: it has no version", path)
	case got.Version > want.Version:
		return fmt.Errorf("%s has format version %d, this program knows %d: use a newer program", path, got.Version, want.Version)
	case got.Cluster != want.Cluster:
		return fmt.Errorf("directory %s belongs to cluster %q, not to %q: give another --dir or the right --cluster", h.dir, got.Cluster, want.Cluster)
	case got.ID != want.ID:
		return fmt.Errorf("directory %s belongs to configuration master %d, not to %d: give another --dir or the right --id", h.dir, got.ID, want.ID)
	case got.Peers != want.Peers:
		return fmt.Errorf("directory %s belongs to a cluster of %d configuration masters, --peers names %d: the set is fixed", h.dir, got.Peers, want.Peers)
	}
	return nil
}

// begin writes the identity of a directory that holds nothing yet.
func (h *home) begin(path string, want identity) error {
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return fmt.Errorf("read directory: %w", err)
	}
	for _, e := range entries {
		if e.Name() != "lock" && e.Name() != "identity.json.new" {
			return fmt.Errorf("directory %s holds %q and no identity of a configuration master: give an empty --dir", h.dir, e.Name())
		}
	}
	text, err := json.MarshalIndent(want, "", "  ")
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	file, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	_, err = file.Write(append(text, '\n'))
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = h.syncDir()
	}
	if err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return nil
}

func (h *home) syncDir() error {
	dir, err := os.Open(h.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (h *home) raftDir() string { return filepath.Join(h.dir, "raft") }

func (h *home) close() { _ = h.lock.Close() }
