package s3blob

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/dayfly-run/dayfly/blob"
)

// Sign returns a presigned URL. What the options say about a PUT is signed as headers.
func (s *service) Sign(ctx context.Context, method, name string, o *blob.SignOptions) (*blob.Signed, error) {
	query, headers := url.Values{}, http.Header{}
	if method == http.MethodGet {
		set(query, "response-content-type", o.ContentType)
		set(query, "response-content-disposition", o.ContentDisposition)
	} else {
		headers = putHeaders(o)
	}
	expires := time.Now().Add(o.Life).UTC().Truncate(time.Second)
	signed, err := s.signer.PresignHeader(ctx, method, s.bucket, name, o.Life, query, headers)
	if err != nil {
		return nil, err
	}
	out := &blob.Signed{URL: signed.String(), Expires: expires, Bound: true}
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
