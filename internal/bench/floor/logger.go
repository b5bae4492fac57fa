package floor

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	pageSize = 4 << 10
	fileSize = 64 << 20
	_        = uint(fileSize - 2*maxRun) // compile error unless what comes together fits
	// fillPiece is how much of a file is filled at once. The kernel keeps in one piece of memory what was written at once, and looks at all of its pages for each
	// later write: in files filled by the MiB a write of 112 bytes takes 18 us of processor time, else 9 to 12 (Linux 6.18, ext4).
	fillPiece = 64 << 10
	// tellPause is how long a commit waits for a frame that tells the other loggers of it, in ms.
	tellPause = 2
)

// Marks of a logger's sockets; peers have theirs from 0 on.
const (
	markListener = -1 - iota
	markSource   // of frames: the front beside n1's logger, n1's logger of the others
	markFront    // that executes what a logger of n2 or n3 hands to it
	markLocal    // the listener for a front
)

// logger keeps frames in a file.
type logger struct {
	config  Config
	poller  *poller
	file    int
	offset  int64
	durable uint64 // the number of the last frame that is
	number  memory // of 8 bytes, to send
	scratch memory

	source   stream // where frames come from
	incoming *inbound

	// Of n1.
	peers     []peer
	committed uint64
	told      uint64 // committed, as the peers know it

	// Of the others, if full.
	front stream
	kept  *inbound // frames that the front was not given yet
}

// peer is another logger, as n1's sees it.
type peer struct {
	stream
	acks         *inbound
	acknowledged uint64
}

// openFile makes a file full of zeros.
func openFile(name string) (int, error) {
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return 0, fmt.Errorf("make %s: %w", name, err)
	}
	zeros := newMemory(fillPiece)
	for at := int64(0); at < fileSize; at += int64(len(zeros.bytes)) {
		if err := zeros.writeAt(fd, 0, len(zeros.bytes), at); err != nil {
			return 0, fmt.Errorf("fill %s: %w", name, err)
		}
	}
	if err := unix.Fsync(fd); err != nil {
		return 0, fmt.Errorf("sync %s: %w", name, err)
	}
	return fd, nil
}

// runLogger is the whole life of a logger's process.
func runLogger(c Config) error {
	l := &logger{config: c, incoming: newInbound(maxRun), number: newMemory(8), scratch: newMemory(1 << 20)}
	l.source.fd, l.front.fd = -1, -1
	var err error
	if l.poller, err = newPoller(); err != nil {
		return err
	}
	if l.file, err = openFile(c.Node + ".log"); err != nil {
		return err
	}
	local, err := listenUnix(c.Node + ".sock")
	if err != nil {
		return err
	}
	if len(c.Peers) > 0 {
		for i, port := range c.Peers {
			fd, err := dial(unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port})
			if err != nil {
				return err
			}
			to, err := l.poller.open(fd, i)
			if err != nil {
				return err
			}
			l.peers = append(l.peers, peer{stream: to, acks: newInbound(pageSize)})
		}
		if err := l.poller.watch(local, markListener); err != nil {
			return err
		}
		c.ready(0)
		return l.lead(local)
	}
	listener, port, err := listenTCP()
	if err == nil {
		err = errors.Join(l.poller.watch(listener, markListener), l.poller.watch(local, markLocal))
	}
	if err != nil {
		return err
	}
	if c.Full {
		l.kept = newInbound(2 * maxRun)
	}
	c.ready(port)
	return l.follow(listener, local)
}

// store writes what came together and makes it durable, if the mode says so.
func (l *logger) store(end int) error {
	if l.offset+int64(end) > fileSize {
		l.offset = 0
	}
	if err := l.incoming.writeAt(l.file, 0, end, l.offset); err != nil {
		return err
	}
	l.offset = (l.offset + int64(end) + pageSize - 1) &^ (pageSize - 1)
	if l.config.Sync == SyncAlways {
		return makeDurable(l.file)
	}
	return nil
}

// adopt takes the one connection that a listener is for.
func (l *logger) adopt(listener int, to *stream, mark int) error {
	fd, err := accept(listener)
	if err != nil || fd < 0 {
		return err
	}
	if to.fd >= 0 {
		unix.Close(fd)
		return nil
	}
	*to, err = l.poller.open(fd, mark)
	return err
}

// lead is the loop of n1's logger.
func (l *logger) lead(listener int) error {
	for {
		pause := -1
		if l.config.Full && l.told < l.committed {
			pause = tellPause
		}
		n, err := l.poller.wait(pause)
		if err != nil {
			return err
		}
		if n == 0 {
			l.tell()
		}
		for i := range n {
			switch mark := int(l.poller.ready[i].Fd); mark {
			case markListener:
				err = l.adopt(listener, &l.source, markSource)
			case markSource:
				err = l.distribute()
			default:
				err = l.hear(&l.peers[mark])
			}
			if err != nil {
				return err
			}
		}
	}
}

// distribute takes frames of the front: to the others first, which work on them while this process does.
func (l *logger) distribute() error {
	for more := true; more; {
		var err error
		if more, err = l.incoming.receive(l.source.fd); err != nil {
			return fmt.Errorf("frames of the front: %w", err)
		}
		end, last, err := l.incoming.frames()
		if err != nil {
			return err
		}
		if end == 0 {
			continue
		}
		last.setCommit(l.committed)
		l.send(l.incoming.memory, end)
		number := last.number()
		if err := l.store(end); err != nil {
			return err
		}
		l.durable = number
		l.incoming.drop(end)
		if err := l.advance(); err != nil {
			return err
		}
	}
	return l.source.flush(l.scratch)
}

// send sends the first bytes of m to all peers that are there, and with them what is committed.
func (l *logger) send(m memory, end int) {
	for i := range l.peers {
		if p := &l.peers[i]; p.fd >= 0 && p.send(m, 0, end) != nil {
			p.close()
		}
	}
	l.told = l.committed
}

// tell tells the peers what is committed while no frame does.
func (l *logger) tell() {
	header(l.scratch.bytes).set(headerSize, l.durable, l.committed)
	l.send(l.scratch, headerSize)
}

// hear takes acknowledgements of a peer. One that is gone keeps those that it has given.
func (l *logger) hear(p *peer) error {
	if p.fd < 0 {
		return nil
	}
	_, err := p.acks.receive(p.fd)
	if err == nil {
		err = p.flush(l.scratch)
	}
	if err != nil {
		p.close()
		return nil
	}
	p.acknowledged = max(p.acknowledged, p.acks.number())
	return l.advance()
}

// advance finds what two of three have, and tells the front.
func (l *logger) advance() error {
	have := [3]uint64{l.durable, l.peers[0].acknowledged, l.peers[1].acknowledged}
	slices.Sort(have[:])
	if have[1] <= l.committed {
		return nil
	}
	l.committed = have[1]
	return l.say(&l.source, l.committed)
}

// say sends a number.
func (l *logger) say(to *stream, number uint64) error {
	for i := range 8 {
		l.number.bytes[i] = byte(number >> (8 * i))
	}
	return to.send(l.number, 0, 8)
}

// follow is the loop of the other loggers. It ends with n1's.
func (l *logger) follow(listener, local int) error {
	for {
		n, err := l.poller.wait(-1)
		if err != nil {
			return err
		}
		for i := range n {
			switch l.poller.ready[i].Fd {
			case markListener:
				err = l.adopt(listener, &l.source, markSource)
			case markLocal:
				err = l.adopt(local, &l.front, markFront)
			case markSource:
				err = l.take()
			case markFront:
				err = l.front.flush(l.scratch)
			}
			if err != nil {
				return err
			}
		}
	}
}

// take takes frames of n1's logger.
func (l *logger) take() error {
	for more := true; more; {
		var err error
		if more, err = l.incoming.receive(l.source.fd); err != nil {
			return fmt.Errorf("frames of n1: %w", err)
		}
		end, last, err := l.incoming.frames()
		if err != nil {
			return err
		}
		if end == 0 {
			continue
		}
		if number := last.number(); number > l.durable {
			if err := l.store(end); err != nil {
				return err
			}
			l.durable = number
			if err := l.say(&l.source, number); err != nil {
				return fmt.Errorf("acknowledge: %w", err)
			}
		}
		if err := l.pass(end, last.commit()); err != nil {
			return err
		}
		l.incoming.drop(end)
	}
	return l.source.flush(l.scratch)
}

// pass gives the front what is committed of the frames that have come.
func (l *logger) pass(end int, commit uint64) error {
	if !l.config.Full {
		return nil
	}
	if l.kept.end+end > len(l.kept.bytes) {
		return errors.New("too many frames wait until they are committed")
	}
	l.kept.end += copy(l.kept.bytes[l.kept.end:], l.incoming.bytes[:end])
	ready := 0
	for ready < l.kept.end {
		h := header(l.kept.bytes[ready:])
		if h.number() > commit {
			break
		}
		ready += h.size()
	}
	if ready == 0 {
		return nil
	}
	if l.front.fd >= 0 {
		if err := l.front.send(l.kept.memory, 0, ready); err != nil {
			return fmt.Errorf("give frames to the front: %w", err)
		}
	}
	l.kept.drop(ready)
	return nil
}
