/* Texts as JSON strings. */
#include <stdlib.h>

#include "gateway.h"

char *json_string(const char *text, size_t length) {
    char *json = malloc(6 * length + 3); /* \u001f for each byte, at most */
    if (json == NULL) return NULL;
    char *end = json;
    *end++ = '"';
    for (size_t at = 0; at < length; ++at) {
        const unsigned char byte = (unsigned char)text[at];
        if (byte == '"' || byte == '\\') {
            *end++ = '\\';
            *end++ = (char)byte;
        } else if (byte < 0x20) {
            end += sprintf(end, "\\u%04x", byte);
        } else {
            *end++ = (char)byte;
        }
    }
    *end++ = '"';
    *end = '\0';
    return json;
}
