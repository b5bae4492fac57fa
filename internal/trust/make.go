package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"lockstep/internal/wholefile"
)

// Names of the files of a CA in its directory.
const (
	CAFile    = "ca.crt"
	CAKeyFile = "ca.key"
)

// earlier is how far clocks may differ from that of the machine on which a certificate is made.
const earlier = time.Hour

// MakeCA makes a CA for a cluster in dir (0700), which must not hold one.
func MakeCA(dir, cluster string, life time.Duration) error {
	if err := (Identity{Cluster: cluster, Role: Admin, Name: "ca"}).Check(); err != nil {
		return err
	}
	key, serial, err := newKey()
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "Lockstep CA of " + cluster, Organization: []string{cluster}},
		NotBefore: now.Add(-earlier), NotAfter: now.Add(life), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("sign the CA: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of the CA: %w", err)
	}
	return writePair(filepath.Join(dir, CAFile), filepath.Join(dir, CAKeyFile), der, key)
}

// Request is what a certificate is to say.
type Request struct {
	Cluster string // that of the CA if it is empty
	Roles   []Role
	Name    string
	Hosts   []string // DNS names and addresses for clients that check them
	Life    time.Duration
}

// Issue makes a key and a certificate, signed by the CA in dir, as NAME.crt and NAME.key below into. Files that are there
// are replaced, the key first: who reads them meanwhile finds a pair that does not fit, and keeps the old one. It returns
// the files, and that of the CA.
func Issue(dir, into, file string, r Request) (Files, error) {
	files := Files{CA: filepath.Join(dir, CAFile), Cert: filepath.Join(into, file+".crt"), Key: filepath.Join(into, file+".key")}
	ca, caKey, err := openCA(dir)
	if err != nil {
		return files, err
	}
	if r.Cluster == "" && len(ca.Subject.Organization) == 1 {
		r.Cluster = ca.Subject.Organization[0]
	}
	key, serial, err := newKey()
	if err != nil {
		return files, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: r.Name, Organization: []string{r.Cluster}},
		NotBefore: now.Add(-earlier), NotAfter: now.Add(r.Life), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if template.NotAfter.After(ca.NotAfter) {
		template.NotAfter = ca.NotAfter
	}
	for _, role := range r.Roles {
		id := Identity{r.Cluster, role, r.Name}
		if err := id.Check(); err != nil {
			return files, err
		}
		template.URIs = append(template.URIs, id.URI())
		if role == Replicator || role == KVNode || role == Confmaster {
			template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		}
	}
	for _, host := range r.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err != nil {
		return files, fmt.Errorf("sign the certificate of %s: %w", r.Name, err)
	}
	if err := os.MkdirAll(into, 0o700); err != nil {
		return files, fmt.Errorf("make the directory for certificates: %w", err)
	}
	return files, writePair(files.Cert, files.Key, der, key)
}

func newKey() (*ecdsa.PrivateKey, *big.Int, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	return key, serial, err
}

func openCA(dir string) (*x509.Certificate, any, error) {
	text, err := readFile(filepath.Join(dir, CAFile), false)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: make a CA first with `smrctl cert ca`", err)
	}
	list, err := certificatesIn(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", filepath.Join(dir, CAFile), err)
	}
	path := filepath.Join(dir, CAKeyFile)
	if text, err = readFile(path, true); err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, nil, fmt.Errorf("%s holds no key in PEM form", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return list[0], key, nil
}

// writePair writes a key (0600) and its certificate, each whole or not at all.
func writePair(certPath, keyPath string, der []byte, key *ecdsa.PrivateKey) error {
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("write %s: %w", keyPath, err)
	}
	if err := wholefile.Write(keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})); err != nil {
		return err
	}
	return wholefile.Write(certPath, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// Paper is what a file says about one certificate.
type Paper struct {
	File       string
	Subject    string
	CA         bool
	Identities []Identity
	Hosts      []string
	From, To   time.Time
}

// Read shows the certificates in a file.
func Read(path string) ([]Paper, error) {
	text, err := readFile(path, false)
	if err != nil {
		return nil, err
	}
	list, err := certificatesIn(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var papers []Paper
	for _, cert := range list {
		p := Paper{File: path, Subject: cert.Subject.CommonName, CA: cert.IsCA, Identities: identitiesOf(cert), Hosts: cert.DNSNames, From: cert.NotBefore, To: cert.NotAfter}
		for _, ip := range cert.IPAddresses {
			p.Hosts = append(p.Hosts, ip.String())
		}
		papers = append(papers, p)
	}
	return papers, nil
}
