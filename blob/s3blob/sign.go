package s3blob

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
)

// Sign returns a presigned URL of version 4 of the signature. What the options say about a PUT is signed as headers, so
// the service refuses a request that does not send exactly the same; Content-Length is one of them. A checksum is sent
// twice: for the service to check, and as the metadata that Stat reads.
func (s *Store) Sign(ctx context.Context, method, key string, o *blob.SignOptions) (*blob.Signed, error) {
	if o == nil {
		o = &blob.SignOptions{}
	}
	name, err := s.name(key)
	if err != nil {
		return nil, err
	}
	life := o.Life
	if life == 0 {
		life = time.Hour
	}
	switch {
	case method != http.MethodGet && method != http.MethodPut:
		return nil, fmt.Errorf("s3blob: sign %q: %w: the method %.20q; only GET and PUT can be signed", key, fault.Unsupported, method)
	case life < blob.MinLife || life > blob.MaxLife || life%time.Second != 0:
		return nil, fmt.Errorf("s3blob: sign %q: %w: a life of %v is not one of whole seconds from %v to %v", key, fault.Invalid, life, blob.MinLife, blob.MaxLife)
	case o.Size < 0 || o.SHA256 != "" && !isSHA256(o.SHA256):
		return nil, fmt.Errorf("s3blob: sign %q: %w: the size is negative or the SHA-256 is none", key, fault.Invalid)
	}
	query, headers := url.Values{}, http.Header{}
	if method == http.MethodGet {
		set(query, "response-content-type", o.ContentType)
		set(query, "response-content-disposition", o.ContentDisposition)
	} else {
		headers = putHeaders(o)
	}
	expires := time.Now().Add(life).UTC().Truncate(time.Second)
	signed, err := s.signer.PresignHeader(ctx, method, s.bucket, name, life, query, headers)
	if err != nil {
		return nil, s.explain(ctx, "sign", key, err)
	}
	out := &blob.Signed{Method: method, URL: signed.String(), Expires: expires, Bound: true}
	if len(headers) > 0 {
		out.Headers = make(map[string]string, len(headers))
		for field := range headers {
			out.Headers[field] = headers.Get(field)
		}
	}
	return out, nil
}

// putHeaders returns the headers that a PUT with these options must send.
func putHeaders(o *blob.SignOptions) http.Header {
	headers := http.Header{}
	set(headers, "Content-Type", o.ContentType)
	set(headers, "Content-Disposition", o.ContentDisposition)
	if o.Size > 0 {
		headers.Set("Content-Length", strconv.FormatInt(o.Size, 10))
	}
	if o.SHA256 != "" {
		raw, _ := hex.DecodeString(o.SHA256) // Sign has checked it
		headers.Set("X-Amz-Checksum-Sha256", base64.StdEncoding.EncodeToString(raw))
		headers.Set("X-Amz-Meta-"+metaSHA256, o.SHA256)
	}
	return headers
}

// set sets a field that has a value.
func set(fields interface{ Set(field, value string) }, field, value string) {
	if value != "" {
		fields.Set(field, value)
	}
}
