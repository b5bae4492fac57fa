package local

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"lockstep/internal/admin"
	"lockstep/internal/trust"
)

const (
	// caLife and certLife are how long the CA and the certificates of a cluster on this machine are good.
	caLife   = 10 * 365 * 24 * time.Hour
	certLife = 365 * 24 * time.Hour
	// adminName and clientName are the files of the certificates for smrctl and for Redis clients.
	adminName, clientName = "admin", "client"
)

// TLSDir is where the CA and the certificates of a cluster with TLS are.
func (c *Cluster) TLSDir() string { return filepath.Join(c.Dir, "tls") }

func (c *Cluster) certificate(name string) trust.Files {
	dir := c.TLSDir()
	return trust.Files{CA: filepath.Join(dir, trust.CAFile), Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key")}
}

// AdminCertificate is what smrctl shows to a cluster with TLS.
func (c *Cluster) AdminCertificate() trust.Files { return c.certificate(adminName) }

// ClientCertificate is what Redis clients of a cluster with TLS show.
func (c *Cluster) ClientCertificate() trust.Files { return c.certificate(clientName) }

// Certify makes the CA and the certificates that are missing; nothing in a cluster without TLS.
func (c *Cluster) Certify() error {
	if !c.Plan.TLS {
		return nil
	}
	dir := c.TLSDir()
	if _, err := os.Stat(filepath.Join(dir, trust.CAFile)); errors.Is(err, fs.ErrNotExist) {
		if err := trust.MakeCA(dir, c.Plan.Cluster, caLife); err != nil {
			return err
		}
	}
	for _, r := range c.Plan.Replicas {
		if err := c.issue(r.Node, trust.Replicator, trust.KVNode); err != nil {
			return err
		}
	}
	for _, m := range c.Plan.Confmasters {
		if err := c.issue(m.Name(), trust.Confmaster); err != nil {
			return err
		}
	}
	if err := c.issue(adminName, trust.Admin); err != nil {
		return err
	}
	return c.issue(clientName)
}

// issue makes a certificate unless it is there.
func (c *Cluster) issue(name string, roles ...trust.Role) error {
	if _, err := os.Stat(c.certificate(name).Cert); err == nil {
		return nil
	}
	_, err := trust.Issue(c.TLSDir(), c.TLSDir(), name, trust.Request{
		Cluster: c.Plan.Cluster, Roles: roles, Name: name, Hosts: []string{"localhost", "127.0.0.1"}, Life: certLife,
	})
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", name, err)
	}
	return nil
}

// Login is how tools show who they are to this cluster.
func (c *Cluster) Login() (admin.Login, error) {
	if !c.Plan.TLS {
		return admin.Login{}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keeper == nil {
		keeper, err := trust.Open(c.certificate(adminName), slog.New(slog.DiscardHandler))
		if err != nil {
			return admin.Login{}, err
		}
		c.keeper = keeper
	}
	return admin.Login{Keeper: c.keeper}, nil
}

// Admin returns a client of the configuration masters, which belongs to the caller.
func (c *Cluster) Admin() (*admin.Client, error) {
	login, err := c.Login()
	if err != nil {
		return nil, err
	}
	return admin.New(c.Plan.ConfmasterAddrs(), login)
}

// clientPort and sentinelPort are the flags that say where Redis clients connect: with TLS there is no port without it.
func (c *Cluster) clientPort() string {
	if c.Plan.TLS {
		return "--tls-listen"
	}
	return "--listen"
}

func (c *Cluster) sentinelPort() string {
	if c.Plan.TLS {
		return "--sentinel-tls"
	}
	return "--sentinel"
}

func (c *Cluster) tlsFlags(p Process) []string {
	if !c.Plan.TLS {
		return nil
	}
	files := c.certificate(p.Node)
	flags := []string{"--tls-ca", files.CA, "--tls-cert", files.Cert, "--tls-key", files.Key, "--http-tls", "on"}
	if p.Kind == KindKVNode {
		flags = append(flags, "--listen", "")
	}
	return flags
}
