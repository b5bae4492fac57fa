package kvnode

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"lockstep/smr"
	"lockstep/smr/client"
)

// Run serves clients until ctx ends, which is no error, or the log cannot be executed. It returns when all
// goroutines have ended.
func Run(ctx context.Context, config Config) error {
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	if err := config.Validate(); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if err := awaitDirectory(ctx, config.ReplicatorDir); err != nil {
		return err
	}
	session, runID := newSession()
	listener, err := net.Listen("tcp", config.Listen)
	if err != nil {
		return fmt.Errorf("listen for clients: %w", err)
	}
	defer listener.Close()
	node := NewNode(config, session, runID, nil)
	link, err := connect(config, session, announced(config, listener), node)
	if err != nil {
		return err
	}
	node.log = link
	node.blocked.announceNode()
	config.Observer.Show(newSubject(node))
	config.Observer.Serving()
	node.logger.Info("started", "listen", listener.Addr().String(), "session", uint64(session), "pid", os.Getpid())

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	linkCtx, unlink := context.WithCancel(context.Background()) // outlives ctx: commands in flight still need the log
	defer unlink()
	var tasks sync.WaitGroup
	var linkErr error
	tasks.Go(func() {
		linkErr = link.Run(linkCtx)
		cancel(linkErr)
	})
	err = node.Serve(ctx, listener)
	unlink()
	tasks.Wait()
	node.Stop()
	if linkErr != nil {
		return fmt.Errorf("execute the log of group %s: %w", config.Group, linkErr)
	}
	return err
}

const (
	// directoryPatience is how long the replicator, which may have been started at the same time, has to make its
	// directory.
	directoryPatience = 10 * time.Second
	directoryPoll     = 50 * time.Millisecond
)

// awaitDirectory waits until the replicator's directory is there. A directory that never comes is a wrong flag.
func awaitDirectory(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, directoryPatience)
	defer cancel()
	poll := time.NewTicker(directoryPoll)
	defer poll.Stop()
	for {
		info, err := os.Stat(dir)
		switch {
		case err == nil && info.IsDir():
			return nil
		case err == nil:
			return fmt.Errorf("replicator directory %s is no directory", dir)
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("replicator directory: %w: start the replicator first, or name its --dir", err)
		}
	}
}

// newSession draws the identity of this process life.
func newSession() (smr.SessionID, string) {
	var b [28]byte
	rand.Read(b[:])
	return smr.SessionID(max(binary.LittleEndian.Uint64(b[20:]), 1)), hex.EncodeToString(b[:20])
}

// announced returns where others reach the listener.
func announced(config Config, listener net.Listener) string {
	if config.Announce != "" {
		return config.Announce
	}
	name, _, _ := splitHostPort(config.Listen)
	return net.JoinHostPort(name, strconv.Itoa(listener.Addr().(*net.TCPAddr).Port))
}

// connect returns the node's link to its group.
func connect(config Config, session smr.SessionID, address string, node *Node) (link, error) {
	c, err := client.New(client.Config{
		Cluster: config.Cluster, Group: config.Group, Node: config.Node, Session: session,
		SocketPath: config.socketPath(), KVAddr: address,
		Timeout: config.WriteTimeout, RefuseAfter: config.RefuseAfter, Logger: config.Logger,
	}, node)
	return link{c}, err
}
