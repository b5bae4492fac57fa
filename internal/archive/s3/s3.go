// Package s3 keeps an archive in a bucket of a service that speaks the S3 protocol: Amazon's, MinIO, Ceph and others.
//
// It may know what internal/archive says of a Store, and how such services are spoken with; nothing of what is archived.
//
// # Where
//
//	s3://BUCKET/PREFIX?endpoint=HOST:PORT&region=REGION&tls=off&style=path
//
// PREFIX may be empty. endpoint is Amazon's by default; region is asked of the service unless it is named; tls=off speaks plain HTTP;
// style=path puts the bucket into the path, style=host into the host's name, by default as the endpoint wants it.
//
// # Credentials
//
// They are never in the address, which is seen in process lists and logs. They are read, each time anew when they have run out, from
//
//	AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN    the environment
//	AWS_SHARED_CREDENTIALS_FILE (~/.aws/credentials), AWS_PROFILE  a file with profiles
//
// # Invariants
//
//   - An object appears whole or not at all: large ones are sent in parts and made one object at the end; if that does not come about, the
//     parts are given up.
//   - What is sent carries its MD5, which the service compares.
package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"lockstep/internal/archive"
)

const (
	scheme = "s3://"
	// amazon is the endpoint if none is named.
	amazon = "s3.amazonaws.com"
	// partBytes is the size of the parts of a large object: so much of each object that is being written is in memory.
	partBytes = 8 << 20
	// tries is how often a request is sent before its error counts, with growing pauses between.
	tries = 4
	// headerPatience bounds how long the service may take to begin its answer, dialPatience how long a connection may take.
	headerPatience = time.Minute
	dialPatience   = 10 * time.Second
)

// Open opens an archive: a directory, or s3://BUCKET/PREFIX. The service is not asked yet: what is wrong with it is told by what is
// done first.
func Open(where string) (archive.Store, error) {
	if !Names(where) {
		return archive.OpenDir(where)
	}
	place, err := parse(where)
	if err != nil {
		return nil, err
	}
	return open(place, credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}}), transport())
}

// Names reports whether an address is one of this package.
func Names(where string) bool { return strings.HasPrefix(where, scheme) }

// Check reports what is wrong with the address of an archive, as far as that can be seen without looking for it.
func Check(where string) error {
	if !Names(where) {
		return nil
	}
	_, err := parse(where)
	return err
}

// place is an address, taken apart.
type place struct {
	bucket, prefix, endpoint, region string
	plain                            bool
	style                            minio.BucketLookupType
}

func parse(where string) (place, error) {
	wrong := func(format string, values ...any) (place, error) {
		return place{}, fmt.Errorf("archive: %s: write s3://BUCKET/PREFIX?endpoint=HOST:PORT&region=REGION&tls=off&style=path", fmt.Sprintf(format, values...))
	}
	u, err := url.Parse(where)
	switch {
	case err != nil: // the error shows all of the address
		return wrong("the address is no URL")
	case u.User != nil:
		return wrong("the address of bucket %q holds credentials, which everybody could read there; put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", u.Hostname())
	case u.Host == "" || u.Port() != "":
		return wrong("%q is no name of a bucket", u.Host)
	}
	p := place{bucket: u.Host, prefix: strings.Trim(u.Path, "/"), endpoint: amazon, style: minio.BucketLookupAuto}
	if p.prefix != "" && p.prefix != path.Clean(p.prefix) {
		return wrong("the prefix %q is not clean", p.prefix)
	}
	for name, values := range u.Query() {
		value := values[0]
		switch known := len(values) == 1 && value != ""; {
		case known && name == "endpoint" && !strings.Contains(value, "/"):
			p.endpoint = value
		case known && name == "region":
			p.region = value
		case known && name == "tls" && (value == "on" || value == "off"):
			p.plain = value == "off"
		case known && name == "style" && value == "path":
			p.style = minio.BucketLookupPath
		case known && name == "style" && value == "host":
			p.style = minio.BucketLookupDNS
		default:
			return wrong("%s=%s is not understood", name, value)
		}
	}
	return p, nil
}

func transport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialPatience, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   dialPatience,
		ResponseHeaderTimeout: headerPatience,
		IdleConnTimeout:       time.Minute,
		MaxIdleConnsPerHost:   4,
		DisableCompression:    true, // what is archived is packed already, and sizes must be those of the objects
	}
}

// store is an archive.Store in a bucket.
type store struct {
	place
	client *minio.Client
}

func open(p place, from *credentials.Credentials, over http.RoundTripper) (*store, error) {
	client, err := minio.New(p.endpoint, &minio.Options{
		Creds: from, Secure: !p.plain, Region: p.region, BucketLookup: p.style, Transport: over, MaxRetries: tries,
	})
	if err != nil {
		return nil, fmt.Errorf("archive %s%s at %s: %w", scheme, p.bucket, p.endpoint, err)
	}
	return &store{place: p, client: client}, nil
}

// String implements archive.Store.
func (s *store) String() string {
	return scheme + path.Join(s.bucket, s.prefix) + " at " + s.endpoint
}

// key returns the name of an object in the bucket.
func (s *store) key(name string) (string, error) {
	if name == "" || name != path.Clean(name) || strings.HasPrefix(name, "/") || name == ".." || strings.HasPrefix(name, "../") {
		return "", fmt.Errorf("archive %s: %q is no name of an object", s, name)
	}
	return path.Join(s.prefix, name), nil
}

// Put implements archive.Store.
func (s *store) Put(ctx context.Context, name string, write func(io.Writer) error) error {
	key, err := s.key(name)
	if err != nil {
		return err
	}
	reader, writer := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := write(writer)
		written <- err
		writer.CloseWithError(err) // nil is the end
	}()
	_, err = s.client.PutObject(ctx, s.bucket, key, reader, -1, minio.PutObjectOptions{
		PartSize: partBytes, NumThreads: 1, SendContentMd5: true, DisableContentSha256: !s.plain, ContentType: "application/octet-stream",
	})
	_ = reader.CloseWithError(errStopped) // write, if it goes on, ends
	if failed := <-written; failed != nil && !errors.Is(failed, errStopped) {
		return failed
	}
	return s.explain("write "+name, err)
}

// errStopped is what write gets when nobody reads what it writes any more.
var errStopped = errors.New("the object is not being written any more")

// Open implements archive.Store.
func (s *store) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	key, err := s.key(name)
	if err != nil {
		return nil, err
	}
	object, err := s.client.GetObject(ctx, s.bucket, key, minio.GetObjectOptions{})
	if err == nil {
		if _, err = object.Stat(); err == nil { // only now it is asked for
			return object, nil
		}
		err = errors.Join(err, object.Close())
	}
	return nil, s.explain("read "+name, err)
}

// List implements archive.Store.
func (s *store) List(ctx context.Context, folder string) ([]archive.Object, error) {
	prefix := s.prefix
	if folder != "." {
		var err error
		if prefix, err = s.key(folder); err != nil {
			return nil, err
		}
	}
	if prefix != "" {
		prefix += "/"
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var list []archive.Object
	for object := range s.client.ListObjects(ctx, s.bucket, minio.ListObjectsOptions{Prefix: prefix}) {
		if object.Err != nil {
			return nil, s.explain("list "+folder, object.Err)
		}
		name := strings.TrimPrefix(object.Key, prefix)
		if name == "" { // some programs make an object of a folder's name
			continue
		}
		list = append(list, archive.Object{Name: name, Size: object.Size})
	}
	slices.SortFunc(list, func(a, b archive.Object) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// Remove implements archive.Store.
func (s *store) Remove(ctx context.Context, name string) error {
	key, err := s.key(name)
	if err != nil {
		return err
	}
	return s.explain("remove "+name, s.client.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{}))
}

// Sweep implements archive.Store.
func (s *store) Sweep(ctx context.Context, folder string, before time.Time) (swept int, err error) {
	prefix, err := s.key(folder)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	core := minio.Core{Client: s.client}
	for upload := range s.client.ListIncompleteUploads(ctx, s.bucket, prefix+"/", true) {
		if upload.Err != nil {
			return swept, s.explain("list what was not written whole below "+folder, upload.Err)
		}
		if !upload.Initiated.Before(before) {
			continue
		}
		if err := core.AbortMultipartUpload(ctx, s.bucket, upload.Key, upload.UploadID); err != nil {
			return swept, s.explain("give up parts of "+upload.Key, err)
		}
		swept++
	}
	return swept, nil
}

// explain says what was being done, and what can be done about it.
func (s *store) explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	doing = fmt.Sprintf("archive %s: %s", s, doing)
	var answer minio.ErrorResponse
	errors.As(err, &answer)
	switch answer.Code {
	case minio.NoSuchKey:
		return fmt.Errorf("%s: %w", doing, fs.ErrNotExist)
	case minio.NoSuchBucket:
		return fmt.Errorf("%s: there is no bucket %q: make it, or name another one", doing, s.bucket)
	case minio.AccessDenied, "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AuthorizationHeaderMalformed":
		return fmt.Errorf("%s: %w (%s): see that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE of ~/.aws/credentials, may read, write, list and delete there, and that region= is the bucket's",
			doing, fs.ErrPermission, answer.Code)
	}
	var network net.Error
	if errors.As(err, &network) {
		return fmt.Errorf("%s: %w: see that endpoint=%s can be reached from here, and speaks TLS unless tls=off is given", doing, err, s.endpoint)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
