package trust

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// lookEvery is how often a Keeper looks whether its files have changed.
	lookEvery = 5 * time.Second
	// maxFile bounds a file of certificates or a key, in bytes.
	maxFile = 1 << 20
	// SoonExpired is how long before its end a certificate is worth a warning.
	SoonExpired = 30 * 24 * time.Hour
)

// Files names the files of a process: its certificate (with what lies between it and the CA), its key, and the CAs whose
// certificates it accepts. All are PEM.
type Files struct{ CA, Cert, Key string }

// Given reports whether TLS is wanted at all.
func (f Files) Given() bool { return f != Files{} }

// Check reports which of the files are missing. prefix is what the flags are called up to "ca", "cert", "key".
func (f Files) Check(prefix string) error {
	var missing []string
	for _, file := range []struct{ name, path string }{{"ca", f.CA}, {"cert", f.Cert}, {"key", f.Key}} {
		if file.path == "" {
			missing = append(missing, prefix+file.name)
		}
	}
	if f.Given() && len(missing) > 0 {
		return fmt.Errorf("%s is missing: TLS needs a certificate, its key and the CA", strings.Join(missing, ", "))
	}
	return nil
}

// material is one state of the files.
type material struct {
	raw     [3][]byte // as read: to see changes
	pair    tls.Certificate
	leaf    *x509.Certificate
	pool    *x509.CertPool
	clients [3]*tls.Config // for servers of Redis clients, by Auth: sessions are resumed only within one of them
}

// Keeper holds the certificate of a process and renews it when its files change. All methods may be called from any
// goroutine; a nil Keeper stands for "no TLS".
type Keeper struct {
	files  Files
	logger *slog.Logger
	now    atomic.Pointer[material]

	complaints complaints
	reloading  sync.Mutex
}

// Open reads the files. The logger is told of renewals and of peers that were refused.
func Open(files Files, logger *slog.Logger) (*Keeper, error) {
	m, err := load(files)
	if err != nil {
		return nil, err
	}
	k := &Keeper{files: files, logger: logger}
	k.complaints.logger = logger
	k.now.Store(m)
	k.warnOfEnd()
	return k, nil
}

func load(files Files) (*material, error) {
	raw, err := readAll(files)
	if err != nil {
		return nil, err
	}
	return parse(files, raw)
}

func readAll(files Files) (raw [3][]byte, err error) {
	for i, path := range []string{files.CA, files.Cert, files.Key} {
		if raw[i], err = readFile(path, i == 2); err != nil {
			return raw, err
		}
	}
	return raw, nil
}

// readFile reads a file that must not be readable by others if it is secret.
func readFile(path string, secret bool) ([]byte, error) {
	file, err := os.Open(path) // #nosec G304 -- the operator names the file
	if err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	if secret && info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("TLS: everybody may read the key %s (mode %04o): `chmod 600 %s`, and make a new key if others were on this machine", path, info.Mode().Perm(), path)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("TLS: read %s: %w", path, err)
	}
	if len(content) > maxFile {
		return nil, fmt.Errorf("TLS: %s has more than %d bytes", path, maxFile)
	}
	return content, nil
}

func parse(files Files, raw [3][]byte) (*material, error) {
	m := &material{raw: raw, pool: x509.NewCertPool()}
	cas, err := certificatesIn(raw[0])
	if err != nil {
		return nil, fmt.Errorf("TLS: %s: %w", files.CA, err)
	}
	for _, ca := range cas {
		m.pool.AddCert(ca)
	}
	if m.pair, err = tls.X509KeyPair(raw[1], raw[2]); err != nil {
		return nil, fmt.Errorf("TLS: %s with %s: %w", files.Cert, files.Key, err)
	}
	m.leaf = m.pair.Leaf
	for auth := range m.clients {
		m.clients[auth] = m.forClients(Auth(auth))
	}
	return m, nil
}

// certificatesIn reads all certificates of a PEM file; none is an error.
func certificatesIn(text []byte) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		list = append(list, cert)
	}
	if len(list) == 0 {
		return nil, errors.New("it holds no certificate in PEM form")
	}
	return list, nil
}

// Cluster is the cluster that the certificate is of, "" if it carries no identity, or k is nil.
func (k *Keeper) Cluster() string {
	if k == nil {
		return ""
	}
	for _, id := range identitiesOf(k.now.Load().leaf) {
		return id.Cluster
	}
	return ""
}

// Own returns the identities of the own certificate.
func (k *Keeper) Own() []Identity {
	if k == nil {
		return nil
	}
	return identitiesOf(k.now.Load().leaf)
}

// Ends returns when the own certificate ends, the zero time for a nil Keeper.
func (k *Keeper) Ends() time.Time {
	if k == nil {
		return time.Time{}
	}
	return k.now.Load().leaf.NotAfter
}

// Is reports why the own certificate is not that of id.
func (k *Keeper) Is(id Identity) error {
	if k == nil {
		return nil
	}
	return k.now.Load().is(k.files.Cert, id)
}

func (m *material) is(path string, id Identity) error {
	own := identitiesOf(m.leaf)
	if slices.Contains(own, id) {
		return nil
	}
	if len(own) == 0 {
		return fmt.Errorf("TLS: %s carries no identity of Lockstep and would be refused everywhere: it needs the URI %s", path, id)
	}
	return fmt.Errorf("TLS: %s is the certificate of %v, and this process is %s: name the right file, or make one with `smrctl cert node %s --role %s`", path, own, id, id.Name, id.Role)
}

// Run renews the certificate until ctx ends: when its files change, and at SIGHUP.
func (k *Keeper) Run(ctx context.Context) {
	if k == nil {
		return
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGHUP)
	defer signal.Stop(asked)
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	told := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-asked:
		case <-ticker.C:
		}
		changed, err := k.Reload()
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != "" && text != told {
			k.logger.Warn("certificate not renewed: the one before stays in use", "error", text)
		}
		told = text
		if changed {
			k.logger.Info("certificate renewed", "file", k.files.Cert, "ends", k.Ends().UTC().Format(time.RFC3339))
			k.warnOfEnd()
		}
	}
}

// Reload reads the files again. What does not fit together, or is the certificate of somebody else, is an error and
// changes nothing.
func (k *Keeper) Reload() (changed bool, err error) {
	k.reloading.Lock()
	defer k.reloading.Unlock()
	raw, err := readAll(k.files)
	if err != nil {
		return false, err
	}
	before := k.now.Load()
	if bytes.Equal(raw[0], before.raw[0]) && bytes.Equal(raw[1], before.raw[1]) && bytes.Equal(raw[2], before.raw[2]) {
		return false, nil
	}
	m, err := parse(k.files, raw)
	if err != nil {
		return false, err
	}
	for _, id := range identitiesOf(before.leaf) {
		if err := m.is(k.files.Cert, id); err != nil {
			return false, err
		}
	}
	k.now.Store(m)
	return true, nil
}

// warnOfEnd tells of a certificate that ends soon, or has ended.
func (k *Keeper) warnOfEnd() {
	if left := time.Until(k.Ends()); left < SoonExpired {
		k.logger.Warn("certificate ends soon: put a new one in place, it is taken without a restart", "file", k.files.Cert, "ends", k.Ends().UTC().Format(time.RFC3339))
	}
}
