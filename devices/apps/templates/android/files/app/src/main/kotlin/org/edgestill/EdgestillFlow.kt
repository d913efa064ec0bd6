package org.edgestill

import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.channels.Channel.Factory.UNLIMITED
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.callbackFlow
import kotlinx.coroutines.launch

/** One token of an answer and the text that it completes (perhaps none). */
data class Token(val id: Int, val text: String)

/** Called after each token on the model's thread: may wait (a hot device), and ends the answer by returning false. */
fun interface Pace {
    fun next(): Boolean
}

/**
 * An answer as a flow of its tokens, computed on [dispatcher] (one thread of the model's own).
 *
 * Nobody waits for the collector: tokens queue up. Cancelling the collector ends the computation after the token, or
 * the piece of the prompt, that is under way.
 */
fun Edgestill.tokens(
    ids: IntArray,
    generation: Generation,
    dispatcher: CoroutineDispatcher,
    pace: Pace = Pace { true },
): Flow<Token> = callbackFlow {
    val listener = TokenListener { id, text -> trySend(Token(id, text)).isSuccess && pace.next() }
    launch(dispatcher) {
        try {
            generate(ids, generation, listener)
            close()
        } catch (error: EdgestillException) {
            close(error)
        }
    }
    awaitClose { this@tokens.cancel(listener) }
}.buffer(UNLIMITED)
