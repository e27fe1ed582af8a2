package remoteblob

import "net/http"

// Lending makes a transport give back what it is lent, as that of Transport does.
func Lending(t http.RoundTripper) http.RoundTripper { return lending{t} }
