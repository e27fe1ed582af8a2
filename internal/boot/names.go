package boot

import "strings"

// shortName makes a name of what anybody has called something: a-z, 0-9 and '-', beginning with a letter, at most so many
// characters.
func shortName(name string, most int) string {
	var short strings.Builder
	for _, c := range strings.ToLower(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			c = '-'
		}
		if short.Len() == 0 && (c < 'a' || c > 'z') {
			short.WriteByte('p')
		}
		if short.Len() >= most {
			break
		}
		short.WriteRune(c)
	}
	if short.Len() == 0 {
		return "p"
	}
	return short.String()
}
