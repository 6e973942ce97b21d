/* AES-256-GCM and ChaCha20-Poly1305, by the machine's libcrypto.
 *
 * Loaded at run time, when the first key is set: it takes 2 MB that an idle node need not have, and a build needs no
 * headers of it. The few functions used have had these types since OpenSSL 1.1 (EVP_EncryptInit(3)).
 */
#include "fastpath.h"

#include <dlfcn.h>
#include <string.h>

typedef struct evp_cipher_ctx EvpContext;
typedef struct evp_cipher EvpCipher;

enum { EVP_CTRL_AEAD_GET_TAG = 0x10, EVP_CTRL_AEAD_SET_TAG = 0x11 };

static struct {
    EvpContext *(*context_new)(void);
    void (*context_free)(EvpContext *);
    const EvpCipher *(*aes)(void);
    const EvpCipher *(*chacha)(void);
    int (*init)(EvpContext *, const EvpCipher *, void *, const uint8_t *, const uint8_t *, int);
    int (*update)(EvpContext *, uint8_t *, int *, const uint8_t *, int);
    int (*final)(EvpContext *, uint8_t *, int *);
    int (*control)(EvpContext *, int, int, void *);
    int loaded;
} evp;

struct cipher {
    EvpContext *context;
    int aes;
    int sealing;
};

static const char *const NAMES[] = {"libcrypto.so.3", "libcrypto.so.1.1", NULL};

int aead_load(void) {
    if (evp.loaded) return 0;
    void *library = NULL;
    for (int i = 0; NAMES[i] != NULL && library == NULL; i++) library = dlopen(NAMES[i], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        PyErr_Format(PyExc_OSError, "neither %s nor %s can be loaded", NAMES[0], NAMES[1]);
        return -1;
    }
    const struct {
        const char *name;
        void *place;
    } wanted[] = {
        {"EVP_CIPHER_CTX_new", &evp.context_new}, {"EVP_CIPHER_CTX_free", &evp.context_free},
        {"EVP_aes_256_gcm", &evp.aes},            {"EVP_chacha20_poly1305", &evp.chacha},
        {"EVP_CipherInit_ex", &evp.init},         {"EVP_CipherUpdate", &evp.update},
        {"EVP_CipherFinal_ex", &evp.final},       {"EVP_CIPHER_CTX_ctrl", &evp.control},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *symbol = dlsym(library, wanted[i].name);
        if (symbol == NULL) {
            PyErr_Format(PyExc_OSError, "libcrypto has no %s", wanted[i].name);
            dlclose(library);
            return -1;
        }
        memcpy(wanted[i].place, &symbol, sizeof symbol);
    }
    evp.loaded = 1;
    return 0;
}

Cipher *aead_key(const uint8_t key[32], int aes, int sealing) {
    if (aead_load() < 0) return NULL;
    Cipher *cipher = PyMem_Calloc(1, sizeof *cipher);
    if (cipher == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    cipher->aes = aes;
    cipher->sealing = sealing;
    cipher->context = evp.context_new();
    const uint8_t nonce[12] = {0};
    if (cipher->context == NULL ||
        evp.init(cipher->context, aes ? evp.aes() : evp.chacha(), NULL, key, nonce, sealing) != 1) {
        aead_free(cipher);
        PyErr_SetString(PyExc_OSError, "libcrypto takes no key");
        return NULL;
    }
    return cipher;
}

void aead_free(Cipher *cipher) {
    if (cipher == NULL) return;
    if (cipher->context != NULL) evp.context_free(cipher->context); /* which overwrites the key */
    PyMem_Free(cipher);
}

/* Noise revision 34, section 12: 4 zeros, then the counter, big-endian for AES-GCM, little-endian for ChaChaPoly. */
static int begin(Cipher *cipher, uint64_t counter) {
    uint8_t nonce[12] = {0};
    if (cipher->aes) {
        put64(nonce + 4, counter);
    } else {
        for (int i = 0; i < 8; i++) nonce[4 + i] = (uint8_t)(counter >> 8 * i);
    }
    return evp.init(cipher->context, NULL, NULL, NULL, nonce, cipher->sealing);
}

int aead_seal(Cipher *cipher, uint64_t counter, uint8_t *text, size_t bytes) {
    int written = 0;
    if (begin(cipher, counter) != 1 || evp.update(cipher->context, text, &written, text, (int)bytes) != 1 ||
        evp.final(cipher->context, text + written, &written) != 1)
        return -1;
    return evp.control(cipher->context, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, text + bytes) == 1 ? 0 : -1;
}

int aead_open(Cipher *cipher, uint64_t counter, const uint8_t *text, size_t bytes, uint8_t *plain) {
    int written = 0;
    uint8_t tag[TAG_BYTES];
    bytes -= TAG_BYTES;
    memcpy(tag, text + bytes, TAG_BYTES);
    if (begin(cipher, counter) != 1 || evp.control(cipher->context, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, tag) != 1 ||
        evp.update(cipher->context, plain, &written, text, (int)bytes) != 1)
        return -1;
    return evp.final(cipher->context, plain + written, &written) == 1 ? 0 : -1;
}
