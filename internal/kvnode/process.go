package kvnode

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
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
	keeper, machine, err := openImages(config)
	if err != nil {
		return err
	}
	session, runID := newSession()
	listener, err := net.Listen("tcp", config.Listen)
	if err != nil {
		if keeper != nil {
			err = errors.Join(err, keeper.engine.Close())
		}
		return fmt.Errorf("listen for clients: %w", err)
	}
	defer listener.Close()
	node := NewNode(config, session, runID, nil)
	images := Images(nil)
	if keeper != nil {
		images = keeper
		node.keep(keeper, machine)
		defer keeper.close()
	}
	management, err := node.openManage(images)
	if err != nil {
		return err
	}
	if management != nil {
		defer management.listener.Close()
	}
	link, err := connect(config, session, announced(config, listener), management.address(), node)
	if err != nil {
		return err
	}
	node.log = link
	if keeper != nil {
		keeper.store, keeper.tell = link.SetCheckpoint, link.SetTransfer
	}
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
	var manageErr error
	if management != nil {
		tasks.Go(func() {
			if manageErr = management.serve(ctx); manageErr != nil {
				cancel(manageErr)
			}
		})
	}
	if keeper != nil {
		tasks.Go(func() { keeper.run(ctx) })
		tasks.Go(func() { keeper.tier.run(ctx) })
		tasks.Go(func() { keeper.archiver.run(ctx) })
	}
	err = node.Serve(ctx, listener)
	cancel(nil)
	unlink()
	tasks.Wait()
	node.Stop()
	if errors.Is(linkErr, client.ErrOtherStream) {
		return fmt.Errorf("group %s: %w. What this node holds is of another history than its group: keep its directories as evidence if a recovery was"+
			" forced, and let it begin anew (smrctl node wipe %s; elsewhere: move away the directories of both its processes)", config.Group, linkErr, config.Node)
	}
	if linkErr != nil {
		return fmt.Errorf("execute the log of group %s: %w", config.Group, linkErr)
	}
	return errors.Join(err, manageErr)
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
func connect(config Config, session smr.SessionID, address, admin string, node *Node) (link, error) {
	c, err := client.New(node.fromImages(client.Config{
		Cluster: config.Cluster, Group: config.Group, Node: config.Node, Session: session,
		SocketPath: config.socketPath(), KVAddr: address, AdminAddr: admin,
		Timeout: config.WriteTimeout, RefuseAfter: config.RefuseAfter, Logger: config.Logger,
	}), node)
	return link{c}, err
}
