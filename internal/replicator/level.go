package replicator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"lockstep/internal/level"
	"lockstep/internal/trust"
	"lockstep/internal/wholefile"
	"lockstep/proto"
	"lockstep/smr"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// levelFile holds the cluster's feature level as this replica was told last: a decimal number and a line feed. There is none at the
// first level. Programs of every level read it, so it never changes.
const levelFile = "level"

// levels is what this replica knows of the cluster's feature level, and what the peers that are connected can. Any goroutine uses it.
//
// Invariant: no peer is connected that cannot the level which the Gate shows.
type levels struct {
	level.Gate
	highest int // that this program can
	path    string
	ended   chan error // 1: this program cannot the level, why

	mu    sync.Mutex
	peers map[net.Conn]int // highest level of who was welcomed
}

// openLevels reads the level that was saved in a replica's directory. It fails if this program cannot it.
func openLevels(dir string, highest int) (*levels, error) {
	l := &levels{highest: highest, path: filepath.Join(dir, levelFile), ended: make(chan error, 1), peers: make(map[net.Conn]int)}
	text, err := os.ReadFile(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the feature level: %w", err)
	}
	saved, err := strconv.Atoi(strings.TrimSuffix(string(text), "\n"))
	if err != nil || saved < level.First || saved > level.Max {
		return nil, fmt.Errorf("%s holds %.20q and no feature level: remove it, the configuration masters tell it again", l.path, text)
	}
	if err := level.Check(saved, highest); err != nil {
		return nil, fmt.Errorf("replica directory %s: %w", dir, err)
	}
	l.Learn(saved)
	return l, nil
}

// raise saves a level that is news and then shows it. Peers that cannot it are hung up on; what they are told when they come again
// ends them. It reports whether it was news.
func (l *levels) raise(told int) (news bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if told <= l.Level() {
		return false, nil
	}
	if err := wholefile.Write(l.path, []byte(strconv.Itoa(told)+"\n")); err != nil {
		return false, fmt.Errorf("save feature level %d: %w", told, err)
	}
	l.Learn(told)
	for conn, can := range l.peers { // the order does not matter
		if can < told {
			conn.Close() // an error here changes nothing: nothing more is read from it
		}
	}
	return true, nil
}

// admit notes what the peer of a connection can, or returns the refusal to send.
func (l *levels) admit(conn net.Conn, peer smr.Handshake) *smr.Reject {
	l.mu.Lock()
	defer l.mu.Unlock()
	can := level.Of(peer.Level)
	if known := l.Level(); can < known {
		return &smr.Reject{Code: smr.RejectLevel, Reason: level.Refuse(known, can)}
	}
	l.peers[conn] = can
	return nil
}

// forget is called when a connection has ended.
func (l *levels) forget(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.peers, conn)
}

// end has the process end, with the first reason that is given.
func (l *levels) end(why error) {
	select {
	case l.ended <- why:
	default:
	}
}

// watch returns the reason to end, nil when ctx has ended.
func (l *levels) watch(ctx context.Context) error {
	select {
	case err := <-l.ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

// learnLevel takes the cluster's level from a call of a configuration master, before the call is carried out. If this program cannot
// it, the call is refused and the process ends.
func (n *node) learnLevel(ctx context.Context, target *proto.Target) error {
	told := level.Of(target.GetLevel())
	if told <= n.levels.Level() || !trust.CallerOf(ctx).Is(trust.Wanted{Role: trust.Confmaster}) {
		return nil
	}
	if err := level.Check(told, n.levels.highest); err != nil {
		n.levels.end(fmt.Errorf("told by a configuration master: %w", err))
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	news, err := n.levels.raise(told)
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	if news {
		n.cfg.Logger.Info("feature level", "group", n.cfg.Group, "node", n.cfg.Node, "level", told, "highest", n.levels.highest)
		n.local.setLevel(told)
	}
	return nil
}

// refusedLevel ends this process because a peer, a master, has refused it: the cluster's level is above what it can.
func (n *node) refusedLevel(peer smr.NodeID, reason string) {
	n.levels.end(fmt.Errorf("%w: refused by %s: %s", level.ErrTooLow, peer, reason))
}
