/* A C target needs a source; this one holds that the header is the one that the Swift code was written for. */
#include "edgestill.h"

_Static_assert(ES_ABI_VERSION == 2, "edgestill.h is of another version than Sources/Edgestill");
