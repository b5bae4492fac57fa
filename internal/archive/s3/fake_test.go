package s3

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is a service that speaks what of S3 a store needs, and no more: it refuses requests whose signature or MD5 is wrong, and
// everything that it does not know.
type fake struct {
	t              *testing.T
	bucket, region string
	access, secret string

	mu      sync.Mutex
	objects map[string][]byte
	uploads map[string]map[int][]byte
	begun   map[string]string // uploads: their keys
	started time.Time         // of all uploads
	failing int               // so many requests are answered 503 yet
	pages   int               // lists have so many keys at most
}

func newFake(t *testing.T) (*fake, *httptest.Server) {
	f := &fake{t: t, bucket: "bucket", region: "eu-west-1", access: "AK", secret: "secret/key", objects: map[string][]byte{}, uploads: map[string]map[int][]byte{}, begun: map[string]string{}, pages: 1000}
	server := httptest.NewTLSServer(f)
	t.Cleanup(server.Close)
	return f, server
}

func (f *fake) answer(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, code)
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	query := r.URL.Query()
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	sum := md5.Sum(body)
	switch {
	case err != nil:
		f.answer(w, http.StatusBadRequest, "IncompleteBody")
	case f.failing > 0:
		f.failing--
		f.answer(w, http.StatusServiceUnavailable, "SlowDown")
	case !f.signed(r):
		f.answer(w, http.StatusForbidden, "SignatureDoesNotMatch")
	case bucket != f.bucket:
		f.answer(w, http.StatusNotFound, "NoSuchBucket")
	case r.Method == http.MethodPut && r.Header.Get("Content-Md5") != base64.StdEncoding.EncodeToString(sum[:]):
		f.answer(w, http.StatusBadRequest, "BadDigest")
	case key == "" && r.Method == http.MethodGet && query.Has("uploads"):
		f.listUploads(w, query)
	case key == "" && r.Method == http.MethodGet && query.Get("list-type") == "2":
		f.list(w, query)
	case r.Method == http.MethodPut && query.Has("uploadId"):
		number, _ := strconv.Atoi(query.Get("partNumber"))
		parts := f.uploads[query.Get("uploadId")]
		if parts == nil || number < 1 {
			f.answer(w, http.StatusNotFound, "NoSuchUpload")
			return
		}
		parts[number] = body
		w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:])+`"`)
	case r.Method == http.MethodPut:
		f.objects[key] = body
		w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:])+`"`)
	case r.Method == http.MethodPost && query.Has("uploads"):
		id := "upload" + strconv.Itoa(len(f.uploads))
		f.uploads[id] = map[int][]byte{}
		f.begun[id] = key
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><Bucket>%s</Bucket><UploadId>%s</UploadId></InitiateMultipartUploadResult>", bucket, id)
	case r.Method == http.MethodPost && query.Has("uploadId"):
		f.complete(w, key, query.Get("uploadId"), body)
	case r.Method == http.MethodDelete && query.Has("uploadId"):
		delete(f.uploads, query.Get("uploadId"))
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodDelete:
		delete(f.objects, key)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		content, there := f.objects[key]
		if !there {
			f.answer(w, http.StatusNotFound, "NoSuchKey")
			return
		}
		of := md5.Sum(content)
		w.Header().Set("ETag", `"`+hex.EncodeToString(of[:])+`"`)
		http.ServeContent(w, r, "", time.Unix(1_700_000_000, 0), bytes.NewReader(content))
	default:
		f.t.Errorf("the service is asked for what it does not know: %s %s", r.Method, r.URL)
		f.answer(w, http.StatusNotImplemented, "NotImplemented")
	}
}

func (f *fake) complete(w http.ResponseWriter, key, id string, body []byte) {
	var order struct {
		Parts []struct {
			PartNumber int
			ETag       string
		} `xml:"Part"`
	}
	parts := f.uploads[id]
	if xml.Unmarshal(body, &order) != nil || parts == nil || len(order.Parts) == 0 {
		f.answer(w, http.StatusBadRequest, "MalformedXML")
		return
	}
	var whole []byte
	for _, p := range order.Parts {
		sum := md5.Sum(parts[p.PartNumber])
		if strings.Trim(p.ETag, `"`) != hex.EncodeToString(sum[:]) {
			f.answer(w, http.StatusBadRequest, "InvalidPart")
			return
		}
		whole = append(whole, parts[p.PartNumber]...)
	}
	delete(f.uploads, id)
	f.objects[key] = whole
	fmt.Fprintf(w, "<CompleteMultipartUploadResult><Bucket>%s</Bucket><Key>x</Key><ETag>\"e\"</ETag></CompleteMultipartUploadResult>", f.bucket)
}

func (f *fake) listUploads(w http.ResponseWriter, query url.Values) {
	fmt.Fprintf(w, "<ListMultipartUploadsResult><Bucket>%s</Bucket><IsTruncated>false</IsTruncated>", f.bucket)
	for id := range f.uploads {
		if key := f.begun[id]; strings.HasPrefix(key, query.Get("prefix")) {
			fmt.Fprintf(w, "<Upload><Key>%s</Key><UploadId>%s</UploadId><Initiated>%s</Initiated></Upload>", key, id, f.started.UTC().Format(time.RFC3339))
		}
	}
	fmt.Fprint(w, "</ListMultipartUploadsResult>")
}

func (f *fake) list(w http.ResponseWriter, query url.Values) {
	prefix, delimiter, after := query.Get("prefix"), query.Get("delimiter"), query.Get("continuation-token")
	var names []string // keys, and folders with their delimiter
	for key := range f.objects {
		rest, found := strings.CutPrefix(key, prefix)
		if !found {
			continue
		}
		if at := strings.Index(rest, delimiter); delimiter != "" && at >= 0 {
			rest = rest[:at+1]
		}
		if name := prefix + rest; name > after && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	truncated := len(names) > f.pages
	names = names[:min(len(names), f.pages)]
	fmt.Fprintf(w, "<ListBucketResult><Name>%s</Name><EncodingType>url</EncodingType><IsTruncated>%v</IsTruncated>", f.bucket, truncated)
	if truncated {
		fmt.Fprintf(w, "<NextContinuationToken>%s</NextContinuationToken>", names[len(names)-1])
	}
	for _, name := range names {
		if escaped := url.QueryEscape(name); delimiter != "" && strings.HasSuffix(name, delimiter) {
			fmt.Fprintf(w, "<CommonPrefixes><Prefix>%s</Prefix></CommonPrefixes>", escaped)
		} else {
			fmt.Fprintf(w, "<Contents><Key>%s</Key><Size>%d</Size><ETag>\"e\"</ETag></Contents>", escaped, len(f.objects[name]))
		}
	}
	fmt.Fprint(w, "</ListBucketResult>")
}

// signed checks the signature of a request (AWS Signature Version 4) as the service's documentation says.
func (f *fake) signed(r *http.Request) bool {
	fields := make(map[string]string)
	rest, found := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	for field := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		fields[name] = value
	}
	stamp := r.Header.Get("X-Amz-Date")
	at, err := time.Parse("20060102T150405Z", stamp)
	if !found || err != nil || time.Since(at).Abs() > 15*time.Minute {
		return false
	}
	scope := at.Format("20060102") + "/" + f.region + "/s3/aws4_request"
	if fields["Credential"] != f.access+"/"+scope {
		return false
	}
	var headers strings.Builder
	for name := range strings.SplitSeq(fields["SignedHeaders"], ";") {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		fmt.Fprintf(&headers, "%s:%s\n", name, strings.TrimSpace(value))
	}
	var query []string
	for name, values := range r.URL.Query() {
		for _, value := range values {
			query = append(query, strings.ReplaceAll(url.QueryEscape(name)+"="+url.QueryEscape(value), "+", "%20"))
		}
	}
	slices.SortFunc(query, cmp.Compare[string])
	canonical := strings.Join([]string{r.Method, r.URL.EscapedPath(), strings.Join(query, "&"), headers.String(), fields["SignedHeaders"], r.Header.Get("X-Amz-Content-Sha256")}, "\n")
	hashed := sha256.Sum256([]byte(canonical))
	key := []byte("AWS4" + f.secret)
	for _, part := range []string{at.Format("20060102"), f.region, "s3", "aws4_request", "AWS4-HMAC-SHA256\n" + stamp + "\n" + scope + "\n" + hex.EncodeToString(hashed[:])} {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	return hmac.Equal([]byte(fields["Signature"]), []byte(hex.EncodeToString(key)))
}
